"""Checks of a copy of OpenCLIP with patches/, as a program: `patched_checks.py COPY CHECK [ARGUMENT ...]`.

A process of its own, because it imports the copy in place of the OpenCLIP that is installed.
"""

import sys
from contextlib import suppress
from itertools import product
from pathlib import Path
from unittest import TestCase

ROOT = Path(__file__).resolve().parent.parent
OPEN_CLIP = ("open_clip", "open_clip_train")


def import_copy(folder: str) -> None:
    """Makes later imports come from a copy, in a process which may have imported the installed packages."""
    sys.dont_write_bytecode = True  # the copy's files change between two processes
    for name in [name for name in sys.modules if name.split(".")[0] in (*OPEN_CLIP, "open_clip_fff")]:
        del sys.modules[name]
    sys.path[:0] = [folder, str(ROOT), str(ROOT / "tests")]
    import open_clip
    import open_clip_train

    assert [module.__path__[0] for module in (open_clip, open_clip_train)] == [f"{folder}/{name}" for name in OPEN_CLIP]


def refuses(call, error: type[Exception], text: str) -> None:
    try:
        call()
    except error as raised:
        assert text in str(raised), raised
    else:
        raise AssertionError(f"nothing was raised that says {text}")


# Losses


def features(images, captions=1, double=False):
    """L2-normalised image [B, D] and text [B * K, D] features, scale [] and bias [1]."""
    import torch
    import torch.nn.functional as F

    g = torch.Generator().manual_seed(0)
    dtype = torch.float64 if double else torch.float32
    image = torch.randn(images, 16, generator=g, dtype=dtype)
    text = image.repeat_interleave(captions, 0) + torch.randn(images * captions, 16, generator=g, dtype=dtype)
    scalars = torch.tensor(6.0, dtype=dtype), torch.tensor([-2.5], dtype=dtype)
    return [F.normalize(image, dim=-1), F.normalize(text, dim=-1), *scalars]


def value_and_gradients(loss, given):
    leaves = [x.detach().clone().requires_grad_() for x in given]
    value = loss(*leaves).sum()
    value.backward()
    return value.detach(), [x.grad for x in leaves]


def assert_same(loss, reference, given, tolerance=1e-6):
    import torch

    ours, theirs = value_and_gradients(loss, given), value_and_gradients(reference, given)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def clip_reference(image, text, scale):
    """A plain loop: an image's captions share its target, a caption's is its image."""
    import torch

    captions, logits = len(text) // len(image), scale * image @ text.T
    rows = [logits[i].log_softmax(0)[captions * i : captions * (i + 1)].mean() for i in range(len(image))]
    columns = [logits[:, j].log_softmax(0)[j // captions] for j in range(len(text))]
    return -(torch.stack(rows).mean() + torch.stack(columns).mean()) / 2


def siglip_reference(image, text, scale, bias):
    """A plain loop over pairs, by the sum and the number of images."""
    import torch.nn.functional as F

    captions, logits = len(text) // len(image), scale * image @ text.T + bias
    pairs = product(range(len(image)), range(len(text)))
    return sum(-F.logsigmoid(logits[i, j] if j // captions == i else -logits[i, j]) for i, j in pairs) / len(image)


def chunked_loss():
    """Chunks of any size, also uneven ones and one larger than the batch, change neither loss nor gradients."""
    import torch
    from open_clip.loss import SigLipLoss

    for images, chunk, captions in product((1, 7, 32), (1, 3, 32, 50), (1, 3)):
        parts = SigLipLoss(chunk_size=chunk)
        assert_same(parts, SigLipLoss(), features(images, captions, double=True), 1e-12)
        value, reference = (loss(*features(images, captions)).item() for loss in (parts, SigLipLoss()))
        assert abs(value - reference) <= 1e-6 * reference
    parts, dense, (image, text, scale, bias) = SigLipLoss(chunk_size=3), SigLipLoss(), features(7, double=True)
    assert_same(lambda *x: parts(*x, None), lambda *x: dense(*x, None), (image, text, scale), 1e-12)
    assert_same(lambda x: parts(image, x, scale, bias), lambda x: dense(image, x, scale, bias), (text,), 1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(parts, dense, features(7), 0.05)


def bytes_of_chunks():
    """Linear in the batch, where SigLipLoss is quadratic."""
    from open_clip.loss import SigLipLoss

    from scripts.bench.memory import AliveBytes

    peaks = {}
    for images, chunk in product((1024, 2048), (0, 32)):
        leaves = [x.requires_grad_() for x in features(images)]
        with AliveBytes(*leaves) as counted:
            SigLipLoss(chunk_size=chunk)(*leaves).backward()
        peaks[images, chunk] = counted.peak
    print(peaks)
    assert peaks[2048, 0] > 3.5 * peaks[1024, 0] > 3.5 * 1024**2 * 4  # the count counts
    assert peaks[2048, 32] < 2.1 * peaks[1024, 32] and peaks[2048, 32] < peaks[2048, 0] / 20


def multi_positive_losses():
    """K captions per image against loops; texts that do not fit the images are refused."""
    from open_clip.loss import ClipLoss, SigLipLoss

    for captions in (1, 2, 5):
        given = features(6, captions, double=True)
        assert_same(ClipLoss(), clip_reference, given[:3], 1e-12)
        assert_same(SigLipLoss(), siglip_reference, given, 1e-12)
    image, text, scale, bias = features(6)
    for loss in (ClipLoss(), SigLipLoss(), SigLipLoss(chunk_size=2)):
        refuses(lambda loss=loss: loss(image, text[:4], scale, bias), AssertionError, "4 texts of 6 images")


def losses_on_ranks():
    """Every exchange, whole or in chunks, gives the loss and gradients of one process with the whole batch."""
    import torch
    import torch.distributed as dist
    from open_clip.loss import ClipLoss, SigLipLoss

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    image, text, scale, bias = features(5 * world, 2, double=True)
    local = image.chunk(world)[rank], text.chunk(world)[rank]

    def check(loss, reference, *scalars):
        """Summed over ranks, loss and gradients are `world` times those of the whole batch."""
        expected, wanted = value_and_gradients(reference, (image, text, *scalars))
        value, grads = value_and_gradients(loss, (*local, *scalars))
        for summed in (value, *grads[2:]):
            dist.all_reduce(summed)
        whole = [expected, *(grad.chunk(world)[rank] for grad in wanted[:2]), *wanted[2:]]
        torch.testing.assert_close([x / world for x in (value, *grads)], whole)

    ranks = {"rank": rank, "world_size": world}
    for how, chunk in product(("bidir", "shift", "reduce", "gather"), (0, 2)):
        check(SigLipLoss(**ranks, dist_impl=how, chunk_size=chunk), siglip_reference, scale, bias)
    for is_local in (True, False):
        check(ClipLoss(**ranks, local_loss=is_local, gather_with_grad=True), clip_reference, scale)
    dist.destroy_process_group()


def one_caption():
    """Prints losses and gradients of one caption per image, to the last bit."""
    from open_clip.loss import ClipLoss, SigLipLoss

    for loss in (ClipLoss(), SigLipLoss()):
        value, grads = value_and_gradients(loss, features(9))
        print(value.item().hex(), *(x.hex() for grad in grads for x in grad.flatten().tolist()))


def arguments(*argv):
    from open_clip_train.params import parse_args

    args = parse_args(["--workers", "0", "--batch-size", "4", *argv])
    args.distributed, args.world_size, args.rank, args.distill = False, 1, 0, False
    return args


def loss_registry():
    """A registered name, MODULE:NAME, and what OpenCLIP chooses without; another name is refused with those known."""
    import open_clip
    from open_clip.loss import ClipLoss, SigLipLoss

    open_clip.register_loss("mine")(lambda args: ("mine", args.world_size))
    refuses(lambda: open_clip.register_loss("mine")(tuple), AssertionError, "registered already")
    assert open_clip.create_loss(arguments("--loss-fn", "mine")) == ("mine", 1)
    assert open_clip.create_loss(arguments("--loss-fn", "builtins:vars"))["siglip"] is False
    assert type(open_clip.create_loss(arguments())) is ClipLoss
    siglip = open_clip.create_loss(arguments("--siglip", "--loss-chunk-size", "5"))
    assert type(siglip) is SigLipLoss and siglip.chunk_size == 5
    refuses(lambda: open_clip.create_loss(arguments("--loss-fn", "theirs")), AssertionError, "only ['mine']")


# Data and checkpoints


def shard(path, samples):
    """A shard of {key: members}, each with an image; returns training's flags for it."""
    from scripts.faulty.inputs import colour_image, write_tar

    image = colour_image("red", 0)
    write_tar(Path(path), {key: {"png": image, **members} for key, members in samples.items()})
    return ["--train-data", str(path), "--train-num-samples", "4"]


def texts_of(args, is_train=True):
    """What a data set reads: the captions of each row of its first mini-batch, as strings, and its tokens' shape."""
    import open_clip
    import torch
    from open_clip_train.data import get_dataset_fn

    build = get_dataset_fn(args.train_data or args.val_data, "auto")
    info = build(args, lambda image: torch.zeros(3), is_train=is_train, tokenizer=open_clip.tokenize)
    _, tokens = next(iter(info.dataloader))
    rows = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    strings = [[open_clip.decode(one[one != 0]) for one in row] for row in rows]
    marks = ("<start_of_text>", "<end_of_text>")
    return {
        tuple(text.removeprefix(marks[0]).removesuffix(marks[1]).strip() for text in row) for row in strings
    }, tokens


def captions_of_shards(folder):
    """Members and fields of the json, lists and strings, in the order of the keys; K of them; none is left out."""
    samples = {
        "many": {"txt": b"a raw one", "json": b'{"blip": ["first", "second", ""], "width": 4}'},
        "one": {"txt": b" ", "json": b'{"blip": "alone"}'},
        "none": {"json": b'{"blip": []}'},
        "member": {"blip.txt": b"of a member", "json": b"[]"},
        "damaged": {"txt": b"never read", "json": b"{"},
    }
    data = shard(f"{folder}/0.tar", samples)
    keys = ["--caption-keys", "json.blip", "blip.txt", "txt", "--batch-size", "3"]
    found, tokens = texts_of(arguments(*data, *keys, "--num-captions", "4"))
    member = ("of a member",) * 4
    assert found == {("first", "second", "a raw one", "first"), ("alone",) * 4, member}, found
    assert tokens.shape == (3, 4, 77)
    found, tokens = texts_of(arguments(*data, *keys))
    assert found == {("first",), ("alone",), ("of a member",)} and tokens.shape == (3, 77), found
    found, _ = texts_of(arguments("--val-data", data[1], *keys, "--num-captions", "4"), is_train=False)
    assert found == {("first",), ("alone",), ("of a member",)}, found
    found, tokens = texts_of(arguments(*data, "--batch-size", "2"))  # as ever: those with a txt
    assert tokens.shape == (2, 77) and found <= {("a raw one",), ("",), ("never read",)}, found
    with TestCase().assertLogs(level="WARNING") as logs, suppress(StopIteration):
        texts_of(arguments(*data, "--workers", "0", "--caption-keys", "json.blib"))
    named = "sample many has none of --caption-keys json.blib, but png txt json json.blip json.width"
    assert any(named in line for line in logs.output), logs.output


def captions_of_tables(folder):
    """Columns of a CSV, whose empty cells are none; a row without any is left out."""
    shard(f"{folder}/0.tar", {})
    from scripts.faulty.inputs import colour_image

    (image := Path(folder, "a.png")).write_bytes(colour_image("red", 0))
    rows = ["filepath\ttitle\tblip", f"{image}\traw\ta square", f"{image}\t\ta second", f"{image}\t \t"]
    (table := Path(folder, "t.csv")).write_text("\n".join(rows) + "\n")
    data = ["--train-data", str(table), "--batch-size", "2"]
    found, tokens = texts_of(arguments(*data, "--caption-keys", "title", "blip", "--num-captions", "2"))
    assert found == {("raw", "a square"), ("a second", "a second")} and tokens.shape == (2, 2, 77), found
    found, tokens = texts_of(arguments(*data))
    assert tokens.shape == (2, 77)


class Payload:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def unpickling(folder):
    """Reads a sample with a pickled member; prints whether its code was run."""
    import pickle

    run = Path(folder, "run")
    data = shard(f"{folder}/0.tar", {str(i): {"txt": b"a", "pyd": pickle.dumps(Payload(str(run)))} for i in range(4)})
    from open_clip_train import data as oc_data

    oc_data.tar_file_expander = without_marker(oc_data.tar_file_expander)  # a copy without the first patch reads, too
    texts_of(arguments(*data))
    print("run" if run.exists() else "not run")


def without_marker(expander):
    return lambda *args, **options: expander(*args, **{**options, "eof_value": None})


def end_of_shard():
    """The empty sample that webdataset sends where a shard ends parts two samples of one name."""
    from open_clip_train.data import group_by_keys_nothrow

    members = [{"fname": f"a.{ext}", "data": ext, "__url__": url} for url, ext in (("0", "txt"), ("1", "png"))]
    grouped = [{"txt", "png"} & set(sample) for sample in group_by_keys_nothrow([members[0], {}, members[1], {}])]
    assert grouped == [{"txt"}, {"png"}], grouped


def logit_bias(folder, config):
    """A checkpoint with a bias gives it to a model whose config has none; its shape is the model's."""
    import open_clip
    import torch

    open_clip.add_model_config(Path(config))
    trained = open_clip.create_model("tiny-clip", init_logit_bias=-7.0)
    torch.save({"state_dict": trained.state_dict()}, path := f"{folder}/siglip.pt")
    model = open_clip.create_model("tiny-clip", pretrained=path, output_dict=True)
    assert model.logit_bias.item() == -7.0 and model.logit_bias.shape == model.logit_scale.shape
    assert "logit_bias" in dict(model.named_parameters()) and model(text=torch.zeros(1, 16).long())["logit_bias"] == -7


def frozen_norms():
    import open_clip
    import torch

    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    for unlocked in (0, 2):
        model = open_clip.CLIP(16, vision, text)
        images = torch.randn(8, 3, 32, 32)
        model.encode_image(images)  # running statistics
        wanted = model.eval().encode_image(images)
        model.lock_image_tower(unlocked_groups=unlocked, freeze_bn_stats=True)
        assert torch.allclose(model.encode_image(images), wanted, atol=1e-5), "the locked tower is another function"


def whole_checkpoints(folder):
    """A failure while a checkpoint is saved leaves the one before, and nothing else."""
    import torch
    from open_clip_train.file_utils import save_whole

    save_whole({"epoch": 1}, path := f"{folder}/epoch_1.pt")
    refuses(lambda: save_whole({"epoch": 2, "not for pickle": lambda: 0}, path), Exception, "pickle")
    assert torch.load(path) == {"epoch": 1} and [file.name for file in Path(folder).iterdir()] == ["epoch_1.pt"]


# Training


def train(config, *argv):
    """OpenCLIP's own main on the tiny architecture."""
    import open_clip
    from open_clip_train.main import main

    open_clip.add_model_config(Path(config))
    main(list(argv))


def fff_train(*argv):
    """The plug-in's own entry."""
    from open_clip_fff.train import main

    sys.exit(main(list(argv)))


SEEN = []


def make_hook(args):
    import torch

    def hook(images, texts):
        SEEN.append(tuple(texts.shape))
        return images, texts, {"numbers": torch.full((len(images),), len(SEEN))}

    return hook


def make_loss(args):
    from open_clip.loss import SigLipLoss

    class Numbered(SigLipLoss):
        def forward(self, *args, numbers, **options):
            SEEN.append(numbers.tolist())
            return super().forward(*args, **options)

    return Numbered()


def batch_hooks(config, *argv):
    """Hooks see each batch once, with K captions; the loss gets their tensors, of all batches of a step."""
    import patched_checks

    flags = ["--train-batch-hooks", "patched_checks:make_hook", "--loss-fn", "patched_checks:make_loss"]
    train(config, *argv, *flags, "--siglip", "--accum-freq", "2", "--batch-size", "2", "--train-num-samples", "8")
    both, later = [1] * 2 + [2] * 2, [5] * 2 + [6] * 2
    seen = patched_checks.SEEN
    assert seen == [(2, 3, 16)] * 2 + [both] * 2 + [(2, 3, 16)] * 2 + [later] * 2, seen


if __name__ == "__main__":
    import_copy(sys.argv[1])
    globals()[sys.argv[2]](*sys.argv[3:])
