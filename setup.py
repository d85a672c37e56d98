"""Where the packages lie; everything else is in pyproject.toml. `pip install -e .[dev]` for development."""

import setuptools

setuptools.setup(
    packages=[*setuptools.find_packages(include=["hcflow_tf", "hcflow_tf.*"]), "hcflow_tf.configs"],
    package_dir={"hcflow_tf.configs": "configs"},
    package_data={
        "hcflow_tf": ["py.typed", "weights/shipped_models/*/*", "metrics/parameters/*"],
        "hcflow_tf.configs": ["*.yaml", "*/*.yaml"],
    },
)
