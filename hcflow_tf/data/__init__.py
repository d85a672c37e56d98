"""Finding and reading images, MATLAB's bicubic, crops and augmentation."""
