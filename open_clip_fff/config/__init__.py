"""Every choice a run makes, as frozen dataclasses; the table of methods; the flags that fill them."""
