"""`dit_step` as GPUs like it: fused attention, fused projections, products in bf16 or FP8.

The same algebra and weights as `export.stages.DitStep`. Products and attention are in 16 bits (or
FP8); what is cheap and sensitive stays fp32: the time's embedding, the rotation's angles, norms and
the residual stream, the way in and out. So x, t and v are fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.export.reference.dit import GatedLinear, merge_heads, split_heads, tokens_made
from omni_rt.export.stages import DitStep, StepBlock, rotate_by

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0

Linear = Callable[[Tensor, Tensor | None], nn.Module]  # weight [out, in], bias → layer


class HalfLinear(nn.Module):
    """A product in bf16."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().bfloat16())
        self.register_buffer("bias", None if bias is None else bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Fp8Linear(nn.Module):
    """A product of E4M3 values, one scale per output channel and one per token, found as it runs.

    Needs a GPU of compute capability 8.9 or above (torch._scaled_mm with scales of rows).
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach()
        scale = row_scale(weight)
        self.register_buffer("weight", (weight / scale).to(E4M3))
        self.register_buffer("scale", scale.float().T.contiguous())  # [1, out]
        self.register_buffer("bias", None if bias is None else bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        scale = row_scale(rows)
        made = torch._scaled_mm(
            (rows / scale).to(E4M3),
            self.weight.T,
            scale_a=scale.float(),
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=x.is_cuda,
        )
        return made.unflatten(0, x.shape[:-1])


def row_scale(rows: Tensor) -> Tensor:
    """What divides each row into E4M3's range, [n, 1] fp32."""
    return rows.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / E4M3_MAX


class DeviceBlock(nn.Module):
    """A block of the regrouped step on a fp32 residual stream."""

    def __init__(self, block: StepBlock, linear: Linear) -> None:
        super().__init__()
        attention, crossing = block.self_attn, block.cross_attn
        gated, out = block.ff.ff["0"], block.ff.ff["2"]
        assert isinstance(gated, GatedLinear)
        assert isinstance(out, nn.Linear)
        self.heads = attention.heads
        self.norms = nn.ModuleList([block.pre_norm, block.cross_attend_norm, block.ff_norm])
        projections = (attention.to_q, attention.to_k, attention.to_v)
        self.to_qkv = linear(torch.cat([p.weight for p in projections]), None)
        self.self_out = linear(attention.to_out.weight, None)
        self.to_q = linear(crossing.to_q.weight, None)
        self.cross_out = linear(crossing.to_out.weight, None)
        self.ff_in = linear(gated.proj.weight, gated.proj.bias)
        self.ff_out = linear(out.weight, out.bias)

    def forward(
        self,
        x: Tensor,
        turned: tuple[Tensor, Tensor],
        k: Tensor,
        v: Tensor,
        bias: Tensor,
        *,
        last: int,
    ) -> Tensor:
        """X [R, n, D] fp32; turned: cos and sin [n, rot/2]; k, v [Q, H, P, d], bias in bf16.

        The last so many tokens, [R, last, D].
        """
        pre, cross, feed = (norm for norm in self.norms)
        x = x[:, -last:] + self.attended(pre(x).bfloat16(), turned, last)
        attending = x[: k.shape[0]]
        q = split_heads(self.to_q(cross(attending).bfloat16()), self.heads)
        crossed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        attending += self.cross_out(merge_heads(crossed))  # of x, which is this block's own
        value, gate = self.ff_in(feed(x).bfloat16()).chunk(2, dim=-1)
        return x + self.ff_out(value * F.silu(gate))

    def attended(self, x: Tensor, turned: tuple[Tensor, Tensor], last: int) -> Tensor:
        qkv = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate_by(qkv[:2], *turned).bfloat16()
        return self.self_out(
            merge_heads(F.scaled_dot_product_attention(q[:, :, -last:], k, qkv[2]))
        )


class DeviceStep(nn.Module):
    """A step's weights in the form above; forward as `DitStep`'s. For inference alone."""

    def __init__(self, step: DitStep, linear: Linear = HalfLinear) -> None:
        super().__init__()
        self.timestep_features = step.timestep_features
        self.to_timestep_embed = step.to_timestep_embed
        self.preprocess_conv, self.postprocess_conv = step.preprocess_conv, step.postprocess_conv
        transformer = step.transformer
        self.project_in, self.project_out = transformer.project_in, transformer.project_out
        self.rotary_pos_emb = transformer.rotary_pos_emb
        blocks = (cast(StepBlock, block) for block in transformer.layers)
        self.layers = nn.ModuleList(DeviceBlock(block, linear) for block in blocks)

    def forward(
        self, x: Tensor, t: Tensor, prepend: Tensor, context_bias: Tensor, cache: list[Tensor]
    ) -> Tensor:
        """X [R,C,L], t [R], prepend [R,N,D], context_bias [Q,1,1,P] → v [R,C,L], all fp32.

        cache: keys and values k_00, v_00, k_01 … of the layers, [Q,H,P,d] each, fp32 or bf16.
        """
        tau = self.to_timestep_embed(self.timestep_features(t))[:, None]
        x = x + self.preprocess_conv(x)
        tokens = torch.cat([prepend + tau, self.project_in(x.transpose(1, 2))], dim=1)
        angles = self.rotary_pos_emb(tokens.shape[1])
        turned = (angles.cos(), angles.sin())
        bias, half = context_bias.bfloat16(), [part.bfloat16() for part in cache]
        made = tokens_made(tokens.shape[1], x.shape[2], depth=len(self.layers))
        for layer, k, v, last in zip(self.layers, half[::2], half[1::2], made, strict=True):
            tokens = layer(tokens, turned, k, v, bias, last=last)
        y = self.project_out(tokens).transpose(1, 2)
        return y + self.postprocess_conv(y)
