"""Probes of tools that summarize, draw or count a model."""

from ecosystem_probes.common import Form, X, tool


@tool("torchinfo", "torchinfo")
def torchinfo(form: Form) -> None:
    from torchinfo import summary

    net = form()
    found = summary(net, input_data=X, verbose=0)
    assert found.total_params == sum(p.numel() for p in net.parameters())
    assert sum(info.class_name == "Linear" for info in found.summary_list) == 3, "layers missing"


@tool("torchsummary", "torchsummary")
def torchsummary(form: Form) -> None:
    import contextlib
    import io

    from torchsummary import summary

    with contextlib.redirect_stdout(io.StringIO()) as text:
        summary(form(), (3, 8, 8), device="cpu")
    assert text.getvalue().count("Linear-") == 3, "layers missing"


@tool("torchview", "torchview")
def torchview(form: Form) -> None:
    from torchview import draw_graph

    graph = draw_graph(form(), input_data=X, expand_nested=True)
    assert str(graph.visual_graph).count("Linear") == 3, "layers missing"


@tool("torchviz", "torchviz")
def torchviz(form: Form) -> None:
    from torchviz import make_dot

    net = form()
    assert "fc.weight" in str(make_dot(net(X), params=dict(net.named_parameters())))


@tool("fvcore (FlopCountAnalysis)", "fvcore")
def fvcore(form: Form) -> None:
    from fvcore.nn import FlopCountAnalysis

    counts = FlopCountAnalysis(form(), X).by_module()
    assert counts["fc"] == 2 * 4 * 8, f"fc has {counts['fc']} operations, not 64"


@tool("ptflops", "ptflops")
def ptflops(form: Form) -> None:
    from ptflops import get_model_complexity_info

    macs, parameters = get_model_complexity_info(
        form(), (3, 8, 8), as_strings=False, print_per_layer_stat=False, backend="pytorch"
    )
    assert parameters == sum(p.numel() for p in form().parameters())
    assert macs and macs > 7000, f"{macs} multiplications; the convolution alone has 6912"


@tool("thop", "thop")
def thop(form: Form) -> None:
    from thop import profile

    macs, _ = profile(form(), inputs=(X,), verbose=False)
    assert macs > 13824, f"{macs} multiplications; the convolution alone has 13824"


@tool("calflops", "calflops")
def calflops(form: Form) -> None:
    from calflops import calculate_flops

    net = form()
    _, macs, _ = calculate_flops(
        net, args=[X], output_as_string=False, print_results=False, print_detailed=False
    )
    assert macs > 7000, f"{macs} multiplications"
