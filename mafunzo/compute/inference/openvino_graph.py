"""A `transformers` network as a graph of OpenVINO's runtime, whose attention reads and writes a paged KV cache.

Three steps, all in memory: the network is traced with its keys and values as inputs and outputs; these become the graph's
state; and OpenVINO's own pass turns each attention with its state into one operation over block tables (`PagedAttention`).

That pass finds attention by the shape of the graph around it. What matters to it:

    mask        a sliding window is recognized where the mask is computed as `sdpa_mask` does it, as numbers, and cut to the
                keys in front of the attention. Any other way the window is silently dropped: `sliding_windows` tells what
                each layer got, and whoever converts compares it with the network (`faults_of`)
    keys, values  one concatenation of what was and what is new, along the tokens
    logits      after the pass the tokens stand along the first axis; so the rows whose logits are wanted are picked in front
                of the output head, from a line of all tokens

Both passes are in a private module of OpenVINO, so that its version is pinned.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from mafunzo.errors import NotSupported

NAME = "mafunzo_openvino"
IDS, MASK, POSITIONS, WANTED = "input_ids", "attention_mask", "position_ids", "wanted_rows"
WINDOW_INPUT = 10
"""Which input of a PagedAttention operation is its sliding window; 0 is none."""


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would tell its makers of each conversion. Raises `ImportError`."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to say: can't be imported
    import openvino  # type: ignore[import-untyped]

    return openvino


@cache
def runtime() -> Any:
    """Return OpenVINO's core, the only one of this process. Raises `ImportError`.

    Each core's CPU plugin lays out a stack for signal handlers in the thread that loads it, and puts back the one before when
    it goes. Of two cores that don't go in the reverse order the stack of one stays in use after it was freed, and the next
    signal, SIGTERM too, ends the process by SIGSEGV.
    """
    return import_openvino().Core()


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, [1, heads, tokens, D]."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: keys and values are there from the beginning."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys = torch.cat([self.keys, key_states], 2)
        self.values = torch.cat([self.values, value_states], 2)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2] + query_length, 0

    def get_seq_length(self) -> int:
        return int(self.keys.shape[2]) if isinstance(self.keys.shape[2], int) else self.keys.shape[2]

    def get_max_length(self) -> int:
        return -1


class _WantedHead(nn.Module):
    """The output head, over some of the tokens only."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.rows: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        assert self.rows is not None
        logits: Tensor = self.head(hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.rows)[None])
        return logits


class _Traceable(nn.Module):
    """A network whose keys and values are arguments and results."""

    def __init__(self, network: PreTrainedModel, head: _WantedHead) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, wanted_rows: Tensor, past: Any
    ) -> tuple[Tensor, ...]:
        self.head.rows = wanted_rows
        cache = Cache(layers=[_Layer(keys, values) for keys, values in past])
        logits = self.network(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).logits
        states = [states for layer in cache.layers for states in (layer.keys, layer.values)]
        return logits, *states


def _mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    device: Any = "cpu",
    **options: Any,
) -> Tensor:
    mask: Tensor = eager_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        device=device,
        use_vmap=False,
    )
    return mask


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    if softcap is not None or s_aux is not None:
        raise NotSupported(f"{type(module).__name__} has soft-capped scores or sinks, which OpenVINO doesn't compute.")
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    mask = attention_mask[:, :, :, : key.shape[-2]]
    output = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


def stateful_graph(network: PreTrainedModel) -> Any:
    """Return the graph of a network in float32, with its keys and values as state; the network is as it was afterwards.

    The graph shares its weights. Raises `NotSupported` for what can't be traced.
    """
    openvino = import_openvino()
    from openvino._offline_transformations import apply_make_stateful_transformation  # type: ignore[import-untyped]
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # type: ignore[import-untyped]

    shapes = _state_shapes(network)
    layers = len(shapes)
    past = tuple((torch.zeros(1, *shape), torch.zeros(1, *shape)) for shape in shapes)
    example = {
        IDS: torch.zeros((1, 3), dtype=torch.long),
        MASK: torch.ones((1, 5), dtype=torch.long),
        POSITIONS: torch.arange(2, 5)[None],
        WANTED: torch.tensor([0, 2]),
        "past": past,
    }
    try:
        with _traceable(network) as traceable, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that shapes are traced is what is wanted
            decoder = TorchScriptPythonDecoder(traceable, example_input=example, trace_kwargs={"check_trace": False})
            graph = openvino.convert_model(decoder, example_input=example)
    except NotSupported:
        raise
    except Exception as error:
        name = type(network).__name__
        raise NotSupported(f"{name} can't be traced: {type(error).__name__}: {str(error)[:300]}") from error
    _name_ports(openvino, graph, shapes)
    _gather_past(openvino, graph)
    names = [f"{kind}.{layer}" for layer in range(layers) for kind in ("key", "value")]
    apply_make_stateful_transformation(graph, {f"past.{name}": f"present.{name}" for name in names})
    _zero_states(openvino, graph)
    return graph


def _state_shapes(network: PreTrainedModel) -> list[tuple[int, int, int]]:
    """Return the shape of each layer's keys, and values, of two tokens: [heads, 2, D]."""
    with torch.no_grad():
        cache = network(torch.zeros((1, 2), dtype=torch.long), use_cache=True).past_key_values
    layers = getattr(cache, "layers", None) or ()
    shapes = [tuple(layer.keys.shape[1:]) for layer in layers if layer.keys is not None]
    if len(shapes) != network.config.get_text_config().num_hidden_layers:
        raise NotSupported(f"{type(network).__name__} doesn't keep keys and values in each layer.")
    return shapes


@contextmanager
def _traceable(network: PreTrainedModel) -> Iterator[_Traceable]:
    """Give the network ready to be traced; it is as it was afterwards."""
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    attention = network.config._attn_implementation
    head = network.get_output_embeddings()
    wanted = _WantedHead(head)
    network.set_output_embeddings(wanted)
    try:
        network.set_attn_implementation(NAME)
        yield _Traceable(network, wanted).eval()
    finally:
        network.set_output_embeddings(head)
        network.set_attn_implementation(attention)


def _name_ports(openvino: Any, graph: Any, shapes: Sequence[tuple[int, int, int]]) -> None:
    names = [f"{kind}.{layer}" for layer in range(len(shapes)) for kind in ("key", "value")]
    inputs = [IDS, MASK, POSITIONS, WANTED, *(f"past.{name}" for name in names)]
    outputs = ["logits", *(f"present.{name}" for name in names)]
    if len(graph.inputs) != len(inputs) or len(graph.outputs) != len(outputs):
        raise NotSupported(
            f"The graph has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, "
            f"expected {len(inputs)} and {len(outputs)}."
        )
    sizes = {name: shapes[index // 2] for index, name in enumerate(inputs[4:])}
    for port, name in zip(graph.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        if name.startswith("past."):
            heads, _, width = sizes[name]
            shape, kind = [-1, heads, -1, width], openvino.Type.f32
        else:
            shape, kind = ([-1] if name == WANTED else [-1, -1]), openvino.Type.i64
        port.get_node().set_partial_shape(openvino.PartialShape(shape))
        port.get_node().set_element_type(kind)
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()


def _gather_past(openvino: Any, graph: Any) -> None:
    """Put the choice of beams in front of each state, which the pass looks for, and takes away."""
    ops = openvino.opset13
    beams = ops.parameter([-1], dtype=openvino.Type.i32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([beams])
    for port in [port for port in graph.inputs if port.any_name.startswith("past.")]:
        consumers = port.get_node().output(0).get_target_inputs()
        gathered = ops.gather(port.get_node(), beams, ops.constant(0))
        for consumer in consumers:
            consumer.replace_source_output(gathered.output(0))
    graph.validate_nodes_and_infer_types()


def _zero_states(openvino: Any, graph: Any) -> None:
    """Have each state begin without tokens."""
    import numpy

    ops = openvino.opset13
    ids = next(port for port in graph.inputs if port.any_name == IDS)
    batch = ops.gather(ops.shape_of(ids.get_node(), output_type="i64"), ops.constant([0]), ops.constant(0))
    for node in [node for node in graph.get_ops() if node.get_type_name() == "ReadValue"]:
        shape = [dimension.min_length for dimension in node.get_output_partial_shape(0)]
        sizes = [batch, *(ops.constant(numpy.array([size], dtype=numpy.int64)) for size in shape[1:])]
        zeros = ops.broadcast(ops.constant(0.0, dtype=node.get_output_element_type(0)), ops.concat(sizes, axis=0))
        node.set_arguments([zeros])
    graph.validate_nodes_and_infer_types()


def page_attention(graph: Any) -> None:
    """Turn each attention of a stateful graph into one over blocks, in place. Raises `NotSupported` where one isn't found."""
    from openvino._offline_transformations import paged_attention_transformation

    states = sum(node.get_type_name() == "ReadValue" for node in graph.get_ops())
    try:
        paged_attention_transformation(graph)
    except RuntimeError as error:
        raise NotSupported(f"OpenVINO finds no paged attention in it: {str(error)[:300]}") from error
    if 2 * len(_attentions(graph)) != states:
        raise NotSupported(f"OpenVINO finds {len(_attentions(graph))} paged attentions, expected {states // 2}.")


def sliding_windows(graph: Any) -> list[int]:
    """Return the sliding window of each layer of a paged graph, 0 for none."""
    return [_window(node.input_value(WINDOW_INPUT).get_node()) for node in _attentions(graph)]


def _window(node: Any) -> int:
    """Return the number behind a window: a constant, or the constant that the mask adds to positions, negated."""
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return abs(int(node.get_data().item()))


def expected_windows(config: Any) -> list[int]:
    """Return the sliding window of each layer as a configuration says it, 0 for none."""
    window = int(getattr(config, "sliding_window", None) or 0)
    types = getattr(config, "layer_types", None)
    if types is None:
        return [window] * config.num_hidden_layers
    return [window if type == "sliding_attention" else 0 for type in types]


def _attentions(graph: Any) -> Sequence[Any]:
    return [node for node in graph.get_ordered_ops() if node.get_type_name() == "PagedAttentionExtension"]
