"""A model outside of training: its checkpoints, its description, and OpenCLIP's hub folder."""

MODEL_FORMS = (
    "a run folder, a checkpoint in RUN/checkpoints, a folder in OpenCLIP's hub format, hf-hub:ORG/NAME, or NAME,TAG of "
    "OpenCLIP (NAME,FILE for weights alone)"
)
