"""Whether an architecture has the activation that pre-trained weights were trained with, by OpenCLIP's own tables."""


def activation_note(name: str, tag: str | None, called: str, forced: bool = False) -> str | None:
    """A line where weights would be computed with another activation than they were trained with; None elsewhere.

    OpenAI's weights and others of QuickGELU load into an architecture with GELU, too: their features are then worse,
    and nothing fails. Nothing is downloaded to tell.

    Args:
        name: OpenCLIP's name of the architecture.
        tag: OpenCLIP's tag of the weights; None, or a file's path, says nothing of an activation.
        called: the flags that named both, for the line.
        forced: whether the architecture is built with QuickGELU, whatever its name (`--force-quick-gelu`).
    """
    from open_clip import get_model_config, get_pretrained_cfg

    name = name.replace("/", "-")
    trained = get_pretrained_cfg(name, tag or "")
    if not trained:
        return None
    told = f"warning: {called}: these weights were trained with"
    quick = bool(trained.get("quick_gelu"))
    if forced and not quick:
        return f"{told} GELU, not with QuickGELU: drop --force-quick-gelu"
    if quick and not (forced or (get_model_config(name) or {}).get("quick_gelu")):
        return f"{told} QuickGELU, and {name} has GELU: use {name}-quickgelu"
    return None
