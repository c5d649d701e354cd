# bloom-tiny: a BLOOM of 3.7 M parameters on Jane Austen and classical Chinese.
# `cupola data text work_dirs/text` writes its data; half an hour on one CPU core.
length = 128
model = dict(
    type="BloomForCausalLM",
    vocab_size=2048,
    hidden_size=256,
    n_layer=4,
    n_head=4,
    hidden_dropout=0.1,
    attention_dropout=0.1,
    gelu="tanh_torch",  # the same function to 2.4e-7, in one pass
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(type="PackedText", folder="work_dirs/text", split="train", length=length),
)
val_dataloader = dict(
    batch_size=16,
    dataset=dict(type="PackedText", folder="work_dirs/text", split="val", length=length),
)
val_evaluator = dict(type="Perplexity")
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.1),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, begin=0, end=200, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False),
]
train_cfg = dict(max_iters=5000, val_interval=1000)
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=500, save_best="perplexity", rule="less")
)
randomness = dict(seed=0)
bundle = dict(
    name="bloom-tiny",
    task="language",
    license="Apache-2.0",
    prompts=[
        "Emma Woodhouse, handsome, clever, and rich, with a",
        "It is a truth universally acknowledged, that",
        "My dear Mr. Bennet,",
        "山中",
    ],
    examples=dict(type="PackedText", folder="work_dirs/text", split="val", length=length),
    description="""A BLOOM with 3.7 M parameters that continues English prose and classical Chinese. It demonstrates
the software and has no knowledge: words and phrases are mostly correct, whole sentences rarely.

Data: the novels of Jane Austen (from Debian's r-cran-janeaustenr, MIT) and classical Chinese
poems and sayings (from Debian's fortunes-zh, GPL-3+ as a collection). The texts themselves are in
the public domain. `cupola data text` fetches and packs them; every twentieth chapter, poem or
saying is held out. `python bench/bloom_tiny.py` compares the loss with n-gram models.""",
)
