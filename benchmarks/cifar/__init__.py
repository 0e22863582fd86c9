"""CIFAR-10 to 94 % on CPU cores: ``fastbn bench cifar``.

The recipe is that of Jordan, "94 % on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024),
arXiv 2404.00498, on this library's own Trainer: `recipe` has its figures, `run` trains one network,
`compare` holds losses and time against PyTorch's, `show` makes table and plot.
"""
