"""MobileNetV2 of Keras, compiled for inference. Needs `pip install keras`.

python examples/keras_mobilenet.py
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it when it is imported

import jax
import keras
import numpy as np

import tilewright


def main() -> None:
    """Run the example."""
    model = keras.applications.MobileNetV2(weights=None)  # "imagenet" downloads the trained weights
    fast = tilewright.compile(lambda images: model(images, training=False), budget="60s", progress=True)
    images = jax.numpy.asarray(np.random.default_rng(0).standard_normal((1, 224, 224, 3), np.float32))
    print("classes:", fast(images).shape)
    report = fast.report()
    print(f"{report.speedup:.1f} times jax.jit" if report.speedup else report.reason)
    for region in report.regions[:5]:
        print(f"  {region.count} x {region.holds}: {region.chosen}")


if __name__ == "__main__":
    main()
