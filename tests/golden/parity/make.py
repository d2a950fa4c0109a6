"""Makes qwen2_5_vl_nested/ beside this file: a very small random checkpoint as transformers writes it, and what
transformers computes on it. See README.md. Needs torch, transformers and pillow; the project's tests do not."""

import json
import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2TokenizerFast,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

OUT = Path(__file__).parent / "qwen2_5_vl_nested"
MIN_PIXELS, MAX_PIXELS = 3136, 40000
INSTRUCTION = "Think, then answer in \\boxed{}."
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>"]
WORDS = "Find x. How many red squares are left of the blue one? Think, then answer in \\boxed{}. user assistant"
PRE = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
       r"|\s+(?!\S)|\s+")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAMPLES = [  # pictures as (file, width, height), prompt, response
    ([("wide.png", 210, 130)], "<image>Find x.", "Both sides are 3, so x = 3. \\boxed{3}"),
    ([("tall.png", 70, 250), ("square.png", 120, 120)], " <image><image>How many red squares are left?\n",
     "12 - 5 = 7, \\boxed{7}"),
    ([], "What is 17 + 25?", "\\boxed{42} ∎"),
    ([("large.png", 420, 300)], "Look: <image> Is it blue?", "No."),
]


def tokenizer():
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRE), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator([WORDS] * 3, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, min_frequency=2))
    bpe.add_special_tokens(SPECIAL)
    return Qwen2TokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def picture(seed, width, height):
    draws = torch.Generator().manual_seed(seed)
    number = lambda low, high: int(torch.randint(low, high, (1,), generator=draws))
    image = Image.new("RGB", (width, height), tuple(number(0, 256) for _ in range(3)))
    canvas = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = number(0, width), number(0, height)
        box = [x, y, x + number(5, width // 2), y + number(5, height // 2)]
        canvas.rectangle(box, fill=tuple(number(0, 256) for _ in range(3)))
    return image


def into_area(image):
    """The area rule of the project: sides scaled by one factor and cut to whole pixels, PIL's default resize."""
    area = image.width * image.height
    bound = MAX_PIXELS if area > MAX_PIXELS else MIN_PIXELS if area < MIN_PIXELS else area
    if bound == area:
        return image
    factor = math.sqrt(bound / area)
    return image.resize((int(image.width * factor), int(image.height * factor)))


def model(tokens):
    ids = {name: tokens.convert_tokens_to_ids(token) for name, token in {
        "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}.items()}
    end, pad = tokens.eos_token_id, tokens.pad_token_id
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(tokens) + 4, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=4096,
            initializer_range=0.15, bos_token_id=pad, eos_token_id=end,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 1, 1])),
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=44, num_heads=2, out_hidden_size=32, window_size=112,
            fullatt_block_indexes=[1], tokens_per_second=2, initializer_range=0.1),
        tie_word_embeddings=False, **ids)
    torch.manual_seed(7)
    made = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    made.generation_config = GenerationConfig(bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad)
    return made


def message(prompt):
    parts = f"{prompt.strip()}\n\n{INSTRUCTION}".split("<image>")
    content = []
    for index, text in enumerate(parts):
        content += [{"type": "image"}] * (index > 0) + [{"type": "text", "text": text}] * (text != "")
    return [{"role": "user", "content": content}]


@torch.no_grad()
def expect(network, processor, files, prompt, response):
    text = processor.apply_chat_template(message(prompt), add_generation_prompt=True)
    images = [into_area(Image.open(OUT / file)).convert("RGB") for file in files]
    batch = processor(text=[text], images=images or None, return_tensors="pt")
    answer = processor.tokenizer(response)["input_ids"] + [processor.tokenizer.eos_token_id]
    ids = torch.cat([batch["input_ids"], torch.tensor([answer])], 1)
    inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
    if images:
        kinds = (ids == network.config.image_token_id).int()
        inputs |= dict(pixel_values=batch["pixel_values"], image_grid_thw=batch["image_grid_thw"], mm_token_type_ids=kinds)
    logits = network(**inputs).logits[0, -len(answer) - 1:-1].double()
    logp = logits.log_softmax(-1)
    return {
        "images": files, "prompt": prompt, "response": response,
        "image_grid_thw": batch["image_grid_thw"].tolist() if images else [],
        "prompt_ids": batch["input_ids"][0].tolist(), "response_ids": answer,
        "logp": [round(row[token].item(), 7) for row, token in zip(logp, answer)],
        "entropy": [round(-(row.exp() * row).sum().item(), 7) for row in logp],
    }


def main():
    (OUT / "images").mkdir(parents=True, exist_ok=True)
    tokens = tokenizer()
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(), video_processor=Qwen2VLVideoProcessor(), tokenizer=tokens,
        chat_template=TEMPLATE)
    processor.save_pretrained(OUT)
    model(tokens).save_pretrained(OUT, max_shard_size="120KB", save_original_format=False)
    network = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        OUT, dtype=torch.float32, attn_implementation="eager").eval()
    samples = []
    for index, (pictures, prompt, response) in enumerate(SAMPLES):
        for place, (file, width, height) in enumerate(pictures):
            picture(10 * index + place, width, height).save(OUT / "images" / file, optimize=True)
        files = [f"images/{file}" for file, _, _ in pictures]
        samples.append(expect(network, processor, files, prompt, response))
    top = {"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS, "instruction": INSTRUCTION}
    lines = ",\n".join(json.dumps(sample) for sample in samples)
    (OUT / "expected.json").write_text(json.dumps(top)[:-1] + f', "samples": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
