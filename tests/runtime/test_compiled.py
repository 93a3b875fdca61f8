"""What is read of a compiled program, against programs whose collectives and bytes are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from score_sde.runtime import mesh
from score_sde.runtime.compiled import ArrayLayout, Moved, Program


def everything(x):
    """Each kind of collective once, of x [32, 8] split over fsdp: [8, 8] on a device."""
    total = jax.lax.psum(x, "fsdp")
    whole = jax.lax.all_gather(x, "fsdp", tiled=True)
    part = jax.lax.psum_scatter(x, "fsdp", tiled=True)
    mixed = jax.lax.all_to_all(x, "fsdp", 0, 1, tiled=True)
    turned = jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)])
    found = [jnp.sin(a).sum() for a in (total, whole, part, mixed, turned)]
    return jnp.stack(found)


def test_each_kind_of_collective_is_counted_with_its_bytes():
    of = mesh.make(4)
    mapped = jax.shard_map(
        everything, mesh=of, in_specs=P("fsdp"), out_specs=P(("data", "fsdp")), check_vma=False
    )
    x = jax.ShapeDtypeStruct((32, 8), jnp.float32, sharding=NamedSharding(of, P("fsdp")))
    found = Program(jax.jit(mapped).lower(x).compile().as_text()).collectives()
    here = 8 * 8 * 4  # bytes of x on a device
    assert found == {
        "all-reduce": Moved(1, here),
        "all-gather": Moved(1, 4 * here),
        "reduce-scatter": Moved(1, here),
        "all-to-all": Moved(1, here),
        "collective-permute": Moved(1, here),
    }


def test_a_loop_counts_as_often_as_it_runs():
    of = mesh.make(4)

    def step(x, _):
        return jnp.sin(jax.lax.psum(x, "fsdp")), None

    def loop(x):
        return jax.lax.scan(step, x, length=7)[0]

    mapped = jax.shard_map(loop, mesh=of, in_specs=P(), out_specs=P(), check_vma=False)
    x = jax.ShapeDtypeStruct((5, 3), jnp.float32, sharding=mesh.whole(of))
    found = Program(jax.jit(mapped).lower(x).compile().as_text()).collectives()
    assert found == {"all-reduce": Moved(7, 7 * 5 * 3 * 4)}


def test_a_loop_whose_number_xla_does_not_state_says_it_in_its_condition():
    """As on TPUs. A loop that ends by what it computes counts once."""

    def steps(x):
        x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, jnp.ones((7, 8, 8)))[0]
        return jax.lax.while_loop(lambda x: x[0, 0] < 3, lambda x: x @ x + 1, x)

    text = jax.jit(steps).lower(jax.ShapeDtypeStruct((8, 8), jnp.float32)).compile().as_text()
    assert "known_trip_count" in text
    unstated = text.replace("known_trip_count", "unknown")
    assert Program(text).products() == Program(unstated).products() == {"f32 x f32": 7 + 1}


def test_operations_of_products():
    """2 m k n of a product of matrices in a batch, as often as a loop makes it; of a convolution 2
    for each tap of each output that meets a number and no padding."""
    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 7))

    def products(a, b, x, kernel):
        def step(total, scale):
            return total + jnp.sin(scale * a) @ b, None

        total = jax.lax.scan(step, jnp.zeros((3, 4, 6)), jnp.arange(5.0))[0]
        convolved = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        padded = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return total.sum() + convolved.sum() + padded.sum()

    found = Program(jax.jit(products).lower(a, b, x, kernel).compile().as_text())
    inside = 2 * (2 * 6 * 6 * 7) * (3 * 3 * 3)
    at_border = 2 * 2 * 7 * 3 * (3 * 4 - 1) ** 2  # one tap of the last window is beyond the border
    assert found.flops() == 5 * 2 * 3 * 4 * 5 * 6 + inside + at_border


def test_a_product_over_split_columns_gathers_the_kernel_once():
    """x [64, 16] @ kernel [16, 32], split in four: the kernel of 2 KiB, and nothing else, moves."""
    of = mesh.make(4)
    x = jax.ShapeDtypeStruct((4_096, 16), jnp.float32, sharding=mesh.spread(of))
    place = NamedSharding(of, P(None, "fsdp"))
    kernel = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=place)
    product = jax.jit(jnp.matmul, out_shardings=mesh.spread(of))
    found = Program(product.lower(x, kernel).compile().as_text())
    assert found.collectives() == {"all-gather": Moved(1, 16 * 32 * 4)}
    assert found.products() == {"f32 x f32": 1}


@pytest.mark.parametrize(
    ("shape", "numbers", "held"),
    [
        (ArrayLayout("f32", (), ":T(128)"), 4, 4),
        (ArrayLayout("bf16", (32, 16, 64), "2,1,0"), 65_536, 65_536),
        # 64 channels take the 128 lanes of a tile, and 5 rows take 8
        (ArrayLayout("bf16", (32, 5, 64), "2,1,0:T(8,128)(2,1)S(1)"), 20_480, 32 * 8 * 128 * 2),
        # dimension 0 is along the lanes, dimension 2 across them
        (ArrayLayout("f32", (130, 3, 9), "0,2,1:T(8,128)"), 14_040, 256 * 3 * 16 * 4),
        (ArrayLayout("pred", (300,), "0:T(512)(128)(4,1)"), 300, 512),
    ],
)
def test_the_bytes_of_an_array_with_its_tiles(shape, numbers, held):
    assert (shape.bytes, shape.held) == (numbers, held)
    assert shape.in_memory == ("S(1)" not in shape.layout)


TPU = """HloModule of_a_tpu, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%all-reduce-scatter.1 (whole: bf16[16,256]) -> bf16[16,128] {
  %whole = bf16[16,256]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.1 = bf16[16,256]{1,0:T(8,128)(2,1)} all-reduce(%whole), channel_id=1, to_apply=%add
  %zero = s32[]{:T(128)} constant(0)
  ROOT %own = bf16[16,128]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.1, %zero, %zero)
}

%begun (a: f32[8,128]) -> f32[16,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.1 = f32[16,128]{1,0:T(8,128)} all-gather(%a), channel_id=2, dimensions={0}
}

%ended (a.1: f32[8,128]) -> f32[16,128] {
  %a.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.2 = f32[16,128]{1,0:T(8,128)} all-gather(%a.1), channel_id=2, dimensions={0}
}

ENTRY %main (p: bf16[16,256], q: f32[8,128]) -> bf16[16,128] {
  %p = bf16[16,256]{1,0:T(8,128)(2,1)} parameter(0)
  %q = f32[8,128]{1,0:T(8,128)} parameter(1)
  %copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]) copy-start(%q)
  %copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %fusion.1 = f32[16,128]{1,0:T(8,128)S(1)} fusion(%copy-done), kind=kCustom, calls=%begun
  %fusion.2 = f32[16,128]{1,0:T(8,128)S(1)} fusion(%copy-done), kind=kCustom, calls=%ended
  %square = f32[16,128]{1,0:T(8,128)S(1)} multiply(%fusion.1, %fusion.2)
  ROOT %part = bf16[16,128]{1,0:T(8,128)(2,1)} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_a_batch_of_products_of_a_tpu():
    """[32, 256, 128] @ [32, 256, 128]^T, which it writes as a convolution over a dilated batch."""
    text = """
ENTRY %main (q: bf16[32,256,128], k: bf16[32,256,128]) -> bf16[32,256,256] {
  %q = bf16[32,256,128]{2,1,0} parameter(0)
  %k = bf16[32,256,128]{2,1,0} parameter(1)
  ROOT %qk = bf16[32,256,256]{2,1,0} convolution(%q, %k), WINDOW
}
"""
    for fields in (
        "size=32 stride=31 lhs_dilate=32",
        "size=32 stride=32 pad=31_31 lhs_dilate=31 rhs_reversal=1",
    ):
        window = f"window={{{fields}}}, dim_labels=0bf_0oi->0bf"
        assert Program(text.replace("WINDOW", window)).flops() == 2 * 32 * 256 * 256 * 128


def test_a_product_whose_columns_are_heads_on_a_tpu():
    """[256, 384] @ [384, 6 x 64], whose window meets one number and five of the padding."""
    text = """
ENTRY %main (x: bf16[256,384,1], w: bf16[6,64,384]) -> bf16[256,6,64] {
  %x = bf16[256,384,1]{2,1,0} parameter(0)
  %w = bf16[6,64,384]{2,1,0} parameter(1)
  ROOT %q = bf16[256,6,64]{2,1,0} convolution(%x, %w), WINDOW
}
"""
    window = "window={size=6 pad=5_5 rhs_reversal=1}, dim_labels=bf0_0oi->b0f"
    assert Program(text.replace("WINDOW", window)).flops() == 2 * 256 * 384 * 384


def test_a_slice_of_a_stack_is_the_traffic_of_a_loop():
    """A fusion doubles one of 28 kernels and puts it into another stack, in place: it reads a
    kernel and writes one, of 8x128 numbers."""
    text = """
%body (kernels: f32[28,8,128], doubled: f32[28,8,128], i: s32[]) -> f32[28,8,128] {
  %kernels = f32[28,8,128]{2,1,0:T(8,128)} parameter(0)
  %doubled = f32[28,8,128]{2,1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)S(6)} parameter(2)
  %zero = s32[]{:T(128)S(6)} constant(0)
  %one = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%kernels, %i, %zero, %zero)
  %twice = f32[1,8,128]{2,1,0:T(8,128)} add(%one, %one)
  ROOT %put = f32[28,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%doubled, %twice, %i, %zero, %zero)
}

ENTRY %main (a: f32[28,8,128], b: f32[28,8,128], n: s32[]) -> f32[28,8,128] {
  %a = f32[28,8,128]{2,1,0:T(8,128)} parameter(0)
  %b = f32[28,8,128]{2,1,0:T(8,128)} parameter(1)
  %n = s32[]{:T(128)S(6)} parameter(2)
  ROOT %next = f32[28,8,128]{2,1,0:T(8,128)} fusion(%a, %b, %n), kind=kLoop, calls=%body
}
"""
    assert Program(text).traffic() == {"elementwise": Moved(1, 2 * 8 * 128 * 4)}


def test_the_text_of_a_tpu():
    """A reduce-scatter is an all-reduce in a fusion; a collective beside products is written more
    than once, on one channel; what is in the core's memory, S(1), is no traffic."""
    program = Program(TPU)
    assert program.collectives() == {
        "all-gather": Moved(1, 16 * 128 * 4),
        "reduce-scatter": Moved(1, 16 * 256 * 2),
    }
    assert program.traffic() == {
        "collectives": Moved(1, 16 * 256 * 2 + 16 * 128 * 2),
        "copies": Moved(1, 8 * 128 * 4),
    }
