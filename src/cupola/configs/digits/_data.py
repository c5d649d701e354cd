# digits-in-photos at 128 pixels: endless training images, a fixed validation set.
image_size = 128
train_dataloader = dict(
    batch_size=16,
    sampler=dict(shuffle=False),  # image i is random already
    dataset=dict(type="DigitsInPhotos", split="train", seed=0, count=100_000_000, size=image_size),
)
val_dataloader = dict(
    batch_size=50,
    dataset=dict(type="DigitsInPhotos", split="val", seed=100, count=500, size=image_size),
)
test_dataloader = dict(
    batch_size=50,
    dataset=dict(type="DigitsInPhotos", split="val", seed=7, count=1000, size=image_size),
)
# What predictors and `cupola evaluate` do with an image of any size.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(image_size, image_size), keep_ratio=False),
]
