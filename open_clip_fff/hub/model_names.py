"""By what names a person may call a trained model; hub/loading.py finds it."""

FORMS = (
    "a run folder, a checkpoint in RUN/checkpoints, a folder in OpenCLIP's hub format, hf-hub:ORG/NAME, or NAME,TAG of "
    "OpenCLIP (NAME,FILE for weights alone)"
)
