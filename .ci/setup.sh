#!/usr/bin/env bash
# Installs the services that the system tests find and use. The only place that calls apt-get.
set -euo pipefail
missing=()
[ -x /usr/bin/chromium ] || missing+=(chromium)
command -v c++ >/dev/null || missing+=(g++)  # torch.compile
[ -d /usr/share/datasets/fashion-mnist ] || missing+=(dataset-fashion-mnist)
# Tables in LaTeX (tests/report/test_latex_compiles.py), and the letters of Chinese and Japanese names there and in pages.
for package in texlive-latex-recommended latex-cjk-common latex-cjk-chinese-arphic-gbsn00lp \
  latex-cjk-chinese-arphic-bsmi00lp latex-cjk-japanese-wadalab fonts-noto-cjk poppler-utils; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
# A Slurm cluster on this machine with accounting (tests/workflow/slurm_cluster.py). Only root can start one, and a machine
# that belongs to a cluster is left alone.
if [ "$(id -u)" = 0 ] && [ ! -e /etc/slurm/slurm.conf ]; then
  for package in slurm-wlm slurmdbd munge mariadb-server; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
fi
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  # Installed, not started: the tests start what they need, with files of their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
