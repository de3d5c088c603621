"""What makes a recipe small enough for a test: few images of 32 pixels, shallow backbones."""

BACKBONES = {
    "cnn": {"name": "mobilenetv2", "width": 0.35, "output_stride": 8},
    "vit": {"name": "deit_tiny", "width": 0.5, "depth": 1, "patch_size": 8},
    "mlp": {"name": "gmlp_tiny", "width": 0.5, "depth": 1, "patch_size": 8},
}
NOAH = {"name": "noah", "num_heads": 4, "key_ratio": 0.5, "init": "small_m", "drop_rate": 0.1}
SMALL = {"batch": 4, "micro_batch": 2}
