# bloom-tiny: a BLOOM of 1 M parameters on Jane Austen and classical Chinese.
# `cupola data text work_dirs/text` writes its data; some minutes on one CPU core.
length = 128
model = dict(
    type="BloomForCausalLM",
    vocab_size=2048,
    hidden_size=128,
    n_layer=4,
    n_head=4,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    gelu="tanh_torch",  # the same function to 2.4e-7, in one pass
)
train_dataloader = dict(
    batch_size=4,  # many small steps: best where time is short
    dataset=dict(type="PackedText", folder="work_dirs/text", split="train", length=length),
)
val_dataloader = dict(
    batch_size=16,
    dataset=dict(type="PackedText", folder="work_dirs/text", split="val", length=length),
)
val_evaluator = dict(type="Perplexity")
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, begin=0, end=30, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=1e-4, by_epoch=False),
]
train_cfg = dict(max_iters=500, val_interval=500)
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=100, save_best="perplexity", rule="less")
)
randomness = dict(seed=0)
bundle = dict(
    name="bloom-tiny",
    task="language",
    licence="Apache-2.0",
    description="""A BLOOM of 1 M parameters that continues English prose and classical Chinese.
It shows the machinery, not knowledge: words are mostly right, sentences are not.

Data: the novels of Jane Austen (from Debian's r-cran-janeaustenr, MIT) and classical Chinese
poems and sayings (from Debian's fortunes-zh, GPL-3+ as a collection). The texts themselves are in
the public domain. `cupola data text` fetches and packs them; every twentieth chapter, poem or
saying is held out.""",
)
