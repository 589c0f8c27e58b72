"""Which matrices read the same activation, and what can be divided so that they may be multiplied.

SmoothQuant (arXiv:2211.10438) moves a per-channel factor from an activation into the matrices that
read it. Folded offline it costs nothing at run time: whatever makes the activation is divided
instead (spec QUANTISATION §1, step 2). Where nothing linear makes it (after a GELU), there is
no factor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Matrices of one activation [..., K], by the reference's names of their weights."""

    matrices: tuple[str, ...]
    divided: tuple[str, ...]  # tensors whose first K values or rows make the activation's channels
    shared_by: int = 1  # query heads that read the same rows: channels tied to each other
    head_width: int = 0  # of those heads; 0 where nothing is tied

    @property
    def name(self) -> str:
        """The first matrix stands for the group."""
        return self.matrices[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """In a block: these read what those make. Names are relative to the block."""

    readers: tuple[str, ...]
    makers: tuple[str, ...]
    through_attention: bool = False  # the makers are values of heads that may be shared


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_SPLIT = ("q", "k", "v")
_RULES = (
    # the diffusion transformer
    _Rule(
        readers=("self_attn.to_q", "self_attn.to_k", "self_attn.to_v"),
        makers=("pre_norm.gamma", "pre_norm.beta"),
    ),
    _Rule(readers=("self_attn.to_out",), makers=("self_attn.to_v.weight",)),
    _Rule(
        readers=("cross_attn.to_q",), makers=("cross_attend_norm.gamma", "cross_attend_norm.beta")
    ),
    _Rule(readers=("cross_attn.to_out",), makers=("cross_attn.to_v.weight",)),
    _Rule(readers=("ff.ff.0.proj",), makers=("ff_norm.gamma", "ff_norm.beta")),
    _Rule(readers=("ff.ff.2",), makers=("ff.ff.0.proj.weight", "ff.ff.0.proj.bias")),
    # the thinker
    _Rule(readers=_QKV, makers=("input_layernorm.weight",)),
    _Rule(
        readers=("self_attn.o_proj",),
        makers=("self_attn.v_proj.weight", "self_attn.v_proj.bias"),
        through_attention=True,
    ),
    _Rule(readers=("mlp.gate_proj", "mlp.up_proj"), makers=("post_attention_layernorm.weight",)),
    _Rule(readers=("mlp.down_proj",), makers=("mlp.up_proj.weight",)),
    _Rule(readers=("lm_head",), makers=("model.norm.weight",)),
    # its ears
    _Rule(readers=_QKV, makers=("self_attn_layer_norm.weight", "self_attn_layer_norm.bias")),
    _Rule(
        readers=("self_attn.out_proj",), makers=("self_attn.v_proj.weight", "self_attn.v_proj.bias")
    ),
    _Rule(readers=("fc1",), makers=("final_layer_norm.weight", "final_layer_norm.bias")),
    # its eyes
    _Rule(readers=tuple(f"attn.{p}" for p in _SPLIT), makers=("norm1.weight",)),
    _Rule(readers=("attn.proj",), makers=("attn.v.weight", "attn.v.bias")),
    _Rule(readers=("mlp.gate_proj", "mlp.up_proj"), makers=("norm2.weight",)),
    _Rule(readers=("mlp.down_proj",), makers=("mlp.up_proj.weight", "mlp.up_proj.bias")),
    # Synchformer
    _Rule(readers=tuple(f"timeattn.{p}" for p in _SPLIT), makers=("norm3.weight", "norm3.bias")),
    _Rule(readers=("timeattn.proj",), makers=("timeattn.v.weight", "timeattn.v.bias")),
    _Rule(readers=tuple(f"attn.{p}" for p in _SPLIT), makers=("norm1.weight", "norm1.bias")),
    _Rule(readers=("mlp.fc1",), makers=("norm2.weight", "norm2.bias")),
)


def groups_of(
    readers: Sequence[tuple[str, ...]],
    tensors: Mapping[str, tuple[int, ...]],
    *,
    head_width: int | None,
) -> tuple[Group, ...]:
    """A group for each set of matrices that read one activation.

    readers: names of their weights; tensors: shapes of all weights of the stages that belong
    together; head_width: of attention whose query heads may share keys and values.
    """
    return tuple(_group(matrices, tensors, head_width) for matrices in readers)


def _group(
    matrices: tuple[str, ...], tensors: Mapping[str, tuple[int, ...]], head_width: int | None
) -> Group:
    found = [
        (rule, block)
        for rule in _RULES
        if (block := _block(rule, matrices)) is not None and _all_there(rule, block, tensors.keys())
    ]
    if not found:
        return Group(matrices=matrices, divided=())
    # the most specific: of a norm with a bias, both parts are divided
    rule, block = max(found, key=lambda item: len(item[0].makers))
    divided = tuple(block + maker for maker in rule.makers)
    width, rows = tensors[matrices[0]][1], tensors[divided[0]][0]
    if rule.through_attention and rows < width:
        assert head_width is not None
        return Group(
            matrices=matrices, divided=divided, shared_by=width // rows, head_width=head_width
        )
    return Group(matrices=matrices, divided=divided)


def _block(rule: _Rule, matrices: tuple[str, ...]) -> str | None:
    """The common prefix if these are exactly the rule's readers."""
    suffixes = [f"{reader}.weight" for reader in rule.readers]
    first = next((m for m in matrices if m.endswith("." + suffixes[0])), None)
    if first is None:
        return None
    block = first.removesuffix(suffixes[0])
    return block if {block + s for s in suffixes} == set(matrices) else None


def _all_there(rule: _Rule, block: str, names: Collection[str]) -> bool:
    return all(block + maker in names for maker in rule.makers)
