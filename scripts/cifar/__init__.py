"""CIFAR-10 with captions, for the study of what mining, many captions and losses bring."""
