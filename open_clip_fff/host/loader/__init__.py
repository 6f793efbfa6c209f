"""OpenCLIP's training loader, with K captions, hooks, and an epoch that can be stopped and resumed."""
