"""The pages that scripts/ecosystem.py writes: the text around the tables, in two languages."""

from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
Row = dict[str, Any]  # tool, version, and the outcomes torch, bare, bridged: (kind, text)
LONGEST = 110  # characters of an error in a cell
CURE = "`nn.to_torch(model)`"

ENGLISH = """# Tools for torch.nn.Module

[中文](ecosystem.zh-CN.md)

A `cupola.nn.Module` is not a subclass of `torch.nn.Module`. [`cupola.nn.to_torch(model)`](../src/cupola/nn/bridge.py) makes it one, in place: the modules stay the same objects, with the same parameters and hooks, and [`from_torch`](../src/cupola/nn/bridge.py) undoes it. It is the one line that nearly every tool needs:

```python
from cupola import nn

model = nn.to_torch(model)
```

Code that would silently ignore the parameters of a module that is not bridged is caught:

- A module that is assigned to a `torch.nn.Module` is bridged by the assignment: an attribute of your own module, `add_module`, `torch.nn.Sequential(...)` and the other containers, `LightningModule`, `AveragedModel`, `DataParallel`, a metric. The table says "works, bridges it"; from then on your model is a tree of torch modules.
- Tools that select layers with `isinstance` and skip the others get a [`NotBridgedError`](../src/cupola/errors.py) that names the line above ([`class_checks.py`](../src/cupola/nn/class_checks.py)).
- In your own code, `isinstance(layer, torch.nn.Linear)` is false for a layer that is not bridged. Write `cupola.nn.Linear`, of which torch's layers count as instances as well, or bridge the model first.
- `init_empty_weights` of accelerate, which replaces `torch.nn.Module.register_parameter`, also takes effect on modules of Cupola.

{table_text}

| tool | version | bare | bridged | what to do |
|---|---|---|---|---|
{rows}

## LoRA with PEFT

On one rank, the parallel linear layers of BLOOM and LLaMA are bridged as `torch.nn.Linear`, so PEFT adapts them: `query_key_value`, `dense`, `dense_h_to_4h` and `dense_4h_to_h` of BLOOM; `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj` and `down_proj` of LLaMA. Over several ranks PEFT refuses them, because it knows nothing of ranks.

```python
from peft import LoraConfig, PeftModel, get_peft_model

from cupola import nn
from cupola.bundles import Bundle
from cupola.runtime.building import build


def load(name):
    bundle = Bundle.load(name)
    model = nn.to_torch(build(bundle.model_config, weights=bundle.weights_path))
    model.name_or_path = name  # PEFT saves it as the base of the adapter
    return model


adapted = get_peft_model(load("bloom-tiny"), LoraConfig(target_modules=["query_key_value"]))
loss = adapted.loss({{"input_ids": ids, "labels": ids}})["loss"]  # and train as usual
adapted.save_pretrained("tuned", save_embedding_layers=False)  # True looks for the base on the hub

again = PeftModel.from_pretrained(load("bloom-tiny"), "tuned")
merged = nn.from_torch(again.merge_and_unload())
```

The folder `tuned` is a model like any other: `cupola serve tuned`, `cupola generate tuned` and `Predictor.load("tuned")` read the base that `adapter_config.json` names (a folder, or a shipped bundle) and merge the adapter as they read; the merged matrices have the type of the base's. `cupola bundle tuned OUT` writes a bundle with merged weights. [`examples/lora.py`](../examples/lora.py) does all of it.

PEFT saves module names, and those of BLOOM differ from transformers'. [`rename_adapter`](../src/cupola/weights/adapter_names.py)`("tuned", "for-transformers")` writes the adapter for PEFT on transformers' own model, whose logits are then equal; `to="cupola"` is the other direction, to train an adapter of transformers on. Loading and serving here take either.

## How the table is made

`python scripts/ecosystem.py` installs nothing and runs everything: each tool in a process of its own, on a network of `torch.nn`, which must work, on the same of `cupola.nn`, and on that after `to_torch`. A probe checks that the tool took effect (parameters in the state dict, layers replaced, equal outputs), not only that it returned. The head of [the script](../scripts/ecosystem.py) says how to install the tools.
"""

CHINESE = """# 面向 torch.nn.Module 的工具

[English](ecosystem.md)

`cupola.nn.Module` 不是 `torch.nn.Module` 的子类。[`cupola.nn.to_torch(model)`](../src/cupola/nn/bridge.py) 就地把它变成后者：模块还是同一批对象，参数和钩子不变；[`from_torch`](../src/cupola/nn/bridge.py) 可以撤销。几乎所有工具只需要这一行：

```python
from cupola import nn

model = nn.to_torch(model)
```

有些代码本来会不加提示地忽略未桥接模块的参数，这里都作了处理：

- 把模块赋值给 `torch.nn.Module` 时，赋值本身会桥接它：自己模块的属性、`add_module`、`torch.nn.Sequential(...)` 等容器、`LightningModule`、`AveragedModel`、`DataParallel`、评测指标都是如此。表中的“可用，自动桥接”就是这个意思；此后模型就是一棵 torch 模块树。
- 用 `isinstance` 挑选层、跳过其余模块的工具，会得到 [`NotBridgedError`](../src/cupola/errors.py)，错误信息给出上面那一行（[`class_checks.py`](../src/cupola/nn/class_checks.py)）。
- 自己的代码中，未桥接的层不满足 `isinstance(layer, torch.nn.Linear)`。请改写为 `cupola.nn.Linear`（torch 的层也算作它的实例），或者先桥接模型。
- accelerate 的 `init_empty_weights` 会替换 `torch.nn.Module.register_parameter`，它对 Cupola 的模块同样生效。

{table_text}

| 工具 | 版本 | 未桥接 | 桥接后 | 怎么做 |
|---|---|---|---|---|
{rows}

## 用 PEFT 训练 LoRA

只有一个 rank 时，BLOOM 和 LLaMA 的并行线性层桥接为 `torch.nn.Linear`，因此 PEFT 能够适配它们：BLOOM 的 `query_key_value`、`dense`、`dense_h_to_4h`、`dense_4h_to_h`，LLaMA 的 `q_proj`、`k_proj`、`v_proj`、`o_proj`、`gate_proj`、`up_proj`、`down_proj`。有多个 rank 时 PEFT 会拒绝这些层，因为它不了解 rank。

```python
from peft import LoraConfig, PeftModel, get_peft_model

from cupola import nn
from cupola.bundles import Bundle
from cupola.runtime.building import build


def load(name):
    bundle = Bundle.load(name)
    model = nn.to_torch(build(bundle.model_config, weights=bundle.weights_path))
    model.name_or_path = name  # PEFT 把它记为适配器的基础模型
    return model


adapted = get_peft_model(load("bloom-tiny"), LoraConfig(target_modules=["query_key_value"]))
loss = adapted.loss({{"input_ids": ids, "labels": ids}})["loss"]  # 然后照常训练
adapted.save_pretrained("tuned", save_embedding_layers=False)  # True 会去 Hub 上查找基础模型

again = PeftModel.from_pretrained(load("bloom-tiny"), "tuned")
merged = nn.from_torch(again.merge_and_unload())
```

文件夹 `tuned` 和其他模型一样使用：`cupola serve tuned`、`cupola generate tuned` 和 `Predictor.load("tuned")` 会读取 `adapter_config.json` 指明的基础模型（文件夹，或随包发布的模型包），并在读取时合并适配器；合并后的矩阵沿用基础模型的数据类型。`cupola bundle tuned OUT` 写出合并了权重的模型包。[`examples/lora.py`](../examples/lora.py) 演示了全部步骤。

PEFT 保存的是模块名，而 BLOOM 的模块名与 transformers 不同。[`rename_adapter`](../src/cupola/weights/adapter_names.py)`("tuned", "for-transformers")` 写出供 transformers 自己的模型使用的适配器，两边的 logits 相等；`to="cupola"` 是相反的方向，用于继续训练来自 transformers 的适配器。在这里加载和提供服务时，两种都可以。

## 表格是怎样得到的

`python scripts/ecosystem.py` 不安装任何东西，而是实际运行每个工具：各用一个进程，先用 `torch.nn` 的网络（必须可用），再用 `cupola.nn` 的同一网络，最后用经过 `to_torch` 的网络。探测程序检查工具是否真的起作用（参数出现在 state dict 中，层被替换，输出相等），而不只是没有报错。[脚本](../scripts/ecosystem.py)开头说明了如何安装这些工具。
"""

WORDS = {
    "en": {
        "works": "works",
        "bridges": "works, bridges it",
        "silent": "**no effect**: ",
        "table": "{tools} tools with PyTorch {torch}: {bare} work bare, {bridged} bridged; "
        "{silent} fail without an error.",
    },
    "zh": {
        "works": "可用",
        "bridges": "可用，自动桥接",
        "silent": "**无效果**：",
        "table": "PyTorch {torch} 下的 {tools} 个工具：未桥接时 {bare} 个可用，桥接后 {bridged} 个可用；"
        "不报错而失败的有 {silent} 个。",
    },
}


def write(rows: list[Row]) -> None:
    """Writes both pages."""
    (DOCS / "ecosystem.md").write_text(filled(ENGLISH, "en", rows), encoding="utf-8")
    (DOCS / "ecosystem.zh-CN.md").write_text(filled(CHINESE, "zh", rows), encoding="utf-8")


def filled(text: str, language: str, rows: list[Row]) -> str:
    words = WORDS[language]
    kinds = {form: [row[form][0] for row in rows] for form in ("bare", "bridged")}
    counts = {form: sum(k in ("works", "bridges") for k in kinds[form]) for form in kinds}
    silent = kinds["bare"].count("silent") + kinds["bridged"].count("silent")
    torch = next(row["version"] for row in rows if row["tool"].package == "torch")
    about = words["table"].format(
        tools=len(rows), torch=torch.partition("+")[0], silent=silent, **counts
    )
    return text.format(table_text=about, rows="\n".join(line(row, words) for row in rows))


def line(row: Row, words: dict[str, str]) -> str:
    works = row["bare"][0] in ("works", "bridges")
    todo = "" if works else row["tool"].cure or CURE
    cells = [
        row["tool"].title,
        row["version"].partition("+")[0],
        cell(row["bare"], words),
        cell(row["bridged"], words),
        todo,
    ]
    return "| " + " | ".join(cells) + " |"


def cell(outcome: tuple[str, str], words: dict[str, str]) -> str:
    kind, text = outcome
    if kind in ("works", "bridges"):
        return words[kind]
    short = text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " ..."
    short = short.replace("|", "\\|").replace("`", "'")
    return f"`{short}`" if kind == "error" else words["silent"] + short
