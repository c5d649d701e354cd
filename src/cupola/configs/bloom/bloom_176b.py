# bigscience/bloom: 176b as published (arXiv 2211.05100, table 3).
model = dict(
    type="BloomForCausalLM",
    vocab_size=250880,
    hidden_size=14336,
    n_layer=70,
    n_head=112,
)
