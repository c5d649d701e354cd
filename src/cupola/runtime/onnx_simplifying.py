"""Simplifies the ONNX graphs that torch writes.

torch does so itself by a list of rules of onnxscript. One of them looks for pairs of nodes, and
compares each node with all others: of the 22,000 nodes of DetectoRS's HTC that alone takes
minutes. Large graphs are simplified by the same rules without it.
"""

from importlib import import_module
from typing import Any

LARGE = 5000  # nodes, of which torch's own simplification takes about ten seconds
ROUNDS = 2  # as in torch's own
RULES = (
    "mul_by_1_rule",
    "add_0_rule",
    "sub_0_rule",
    "div_by_1_rule",
    "dropout_zero_rule",
    "dropout_inference_rule",
    "two_reshapes_matmul_reshape_rule",
    "one_reshape_matmul_reshape_rule",
    "cast_constant_of_shape_rule",
    "cast_constant_of_shape_without_value_rule",
    "collapse_slice_rule",
    "collapse_slice2_rule",
    "materialize_reshape_shape_rule",
    "min_min_rule",
    "max_max_rule",
    "min_max_rule",
    "max_min_rule",
    "successive_clip_relu_rule",
    "successive_relu_clip_rule",
    "successive_relu_rule",
    "successive_clip_rule",
    "cast_cast_rule",
    "no_op_cast_rule",
    "no_op_expand_rule",
    "flatten_to_reshape_rule",
    "reshape_reshape_rule",
    "no_op_transpose_rule",
    "transpose_transpose_rule",
    "unsqueeze_unsqueeze_rule",
    "squeeze_reshape_1d_rule",
    "no_op_dynamic_scatter_nd_rule",
    "no_op_static_scatter_nd_rule",
    "normalize_pad_format_conv_rule",
    "fuse_pad_into_conv_rule",
    "fuse_batchnorm_into_conv_rule",
    "fuse_batchnorm_into_conv_transpose_rule",
    "fuse_batchnorm_into_gemm_rule",
    "remove_optional_bias_from_conv_rule",
    "remove_optional_bias_from_conv_transpose_rule",
    "remove_optional_bias_from_gemm_rule",
)


def simplify(program: Any, large: int = LARGE) -> None:
    """Simplifies the model of a torch.onnx.ONNXProgram in place.

    By torch's own passes up to `large` nodes, and where onnxscript has no public rules (before
    0.5); otherwise by those of RULES that this onnxscript has.
    """
    try:
        common = import_module("onnxscript.rewriter.rules.common")
    except ImportError:
        common = None
    if common is None or program.model.graph.num_nodes() <= large:
        program.optimize()
        return
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer, rewriter

    rules = [getattr(common, name) for name in RULES if hasattr(common, name)]
    optimizer.inline(program.model)
    for _ in range(ROUNDS):
        optimizer.fold_constants(program.model, onnx_shape_inference=True)
        rewriter.rewrite(program.model, rules)
    for each in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        each(program.model)
