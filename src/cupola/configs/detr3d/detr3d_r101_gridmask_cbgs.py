# The same with classes balanced: rare ones are sampled more often (CBGS, arXiv 1908.09492).
_base_ = "./detr3d_r101_gridmask.py"
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="CBGSDataset",
        dataset={{_base_.train_dataloader.dataset}},
    )
)
