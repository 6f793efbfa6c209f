"""Small random captioners of transformers, saved with what stands beside them."""

from pathlib import Path

import torch

from tests.matching_models import TEXT, VISION, make

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CHAT = "{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}"
CHAT += "{% endif %}{% endfor %} ASSISTANT:{% endfor %}"


def make_captioner(folder: Path, kind: str) -> Path:
    """A folder with a captioner: `blip`, `blip2`, `git`, `decoder` (of a vision encoder), `chat` (LLaVA), `qwen`."""
    import transformers

    made = make(folder, "blip", "BlipForConditionalGeneration")  # a tokenizer and an image processor for all
    if kind == "blip":
        return made
    words = transformers.AutoTokenizer.from_pretrained(made)
    ends = {"bos_token_id": words.cls_token_id, "eos_token_id": words.sep_token_id, "pad_token_id": words.pad_token_id}
    torch.manual_seed(5)
    model = {"blip2": _blip2, "git": _git, "decoder": _decoder, "chat": _chat, "qwen": _qwen}[kind](folder, words, ends)
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    return folder


def _blip2(folder, words, ends):
    from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

    words.add_tokens(["<image>"], special_tokens=True)
    words.save_pretrained(folder)
    text = OPTConfig(vocab_size=len(words), hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
                     word_embed_proj_dim=16, max_position_embeddings=64, **ends)  # fmt: skip
    config = Blip2Config(
        vision_config=VISION, qformer_config={**TEXT, "vocab_size": len(words)}, text_config=text.to_dict(),
        num_query_tokens=3, image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return Blip2ForConditionalGeneration(config)


def _git(folder, words, ends):
    from transformers import GitConfig, GitForCausalLM

    return GitForCausalLM(
        GitConfig(vision_config=VISION, vocab_size=len(words), max_position_embeddings=32, **SIZE, **ends)
    )


def _decoder(folder, words, ends):
    from transformers import BertConfig, BertLMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel

    side = {"is_decoder": True, "add_cross_attention": True, "max_position_embeddings": 32}
    text = BertLMHeadModel(BertConfig(vocab_size=len(words), **side, **SIZE, **ends))
    model = VisionEncoderDecoderModel(encoder=ViTModel(ViTConfig(image_size=24, patch_size=8, **SIZE)), decoder=text)
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = words.cls_token_id
    model.generation_config.update(**ends)
    model.config.pad_token_id = words.pad_token_id
    return model


def _chat(folder, words, ends):
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words.add_tokens(["<image>"], special_tokens=True)
    side = {"image_size": 24, "patch_size": 8}
    text = LlamaConfig(vocab_size=len(words), max_position_embeddings=128, **SIZE, **ends)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SIZE, **side), text_config=text, vision_feature_layer=-1,
        image_token_index=words.convert_tokens_to_ids("<image>"), image_seq_length=9,
    )  # fmt: skip
    images = CLIPImageProcessor(size={"height": 24, "width": 24}, do_center_crop=False)
    LlavaProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="default", chat_template=CHAT,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return LlavaForConditionalGeneration(config)


def _qwen(folder, words, ends):
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    special = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    names = {"model_input_names": ["input_ids", "attention_mask"]}  # a BERT's has token types, which Qwen has not
    words = PreTrainedTokenizerFast(tokenizer_object=words.backend_tokenizer, **special, **names)
    marks = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    words.add_tokens(marks, special_tokens=True)
    start, image, end, video = words.convert_tokens_to_ids(marks)
    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 4)
    chat = CHAT.replace("<image>", "".join(marks[:3]))
    Qwen2VLProcessor(images, words, Qwen2VLVideoProcessor(), chat_template=chat).save_pretrained(folder)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
    text = {**SIZE, "vocab_size": len(words), "num_key_value_heads": 2, "max_position_embeddings": 128, **ends}
    config = Qwen2VLConfig(
        text_config={**text, "rope_parameters": rope, "rope_scaling": rope},
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.update(**ends)
    return model
