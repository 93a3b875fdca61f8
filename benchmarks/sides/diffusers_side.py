"""diffusers' DiTTransformer2DModel and UNet2DModel with its DDIM, eager or compiled."""

from __future__ import annotations

import functools
from typing import Any

from sides.serve import Side, serve, versions


def make(settings: Any) -> Side:
    """`settings.compiled` says whether the network goes through `torch.compile`."""
    import torch
    from diffusers import DDIMScheduler

    from sides import diffusers_models

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    if device == "cuda":  # as XLA has it there
        torch.set_float32_matmul_precision("high")
    network = getattr(diffusers_models, settings.network)(settings, settings.shape).to(device)
    called = torch.compile(network) if settings.compiled else network
    size, _, channels = settings.shape
    shape = (settings.batch, channels, size, size)
    label = torch.zeros(settings.batch, dtype=torch.int64, device=device)
    x = torch.randn(shape, device=device)
    low = torch.autocast(device, torch.bfloat16, enabled=settings.dtype == "bfloat16")
    scheduler = DDIMScheduler(clip_sample=False)

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    @torch.inference_mode()
    def sample():
        network.eval()
        scheduler.set_timesteps(settings.steps)
        x = torch.randn(shape, device=device)
        for t in scheduler.timesteps:
            with low:
                noise = called(x, t.expand(settings.batch).to(device), label)
            x = scheduler.step(noise, t, x).prev_sample
        wait()
        return 1

    @functools.cache
    def state():
        average = [p.detach().clone() for p in network.parameters()]
        return average, torch.optim.Adam(network.parameters(), lr=1e-4)

    def prepare():
        state()
        return 1

    def train():
        average, optimizer = state()
        network.train()
        noise = torch.randn_like(x)
        t = torch.randint(1000, (settings.batch,), device=device)
        with low:
            loss = torch.mean((called(scheduler.add_noise(x, noise, t), t, label) - noise) ** 2)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 1e-4)
        wait()
        return 1

    def facts() -> dict[str, Any]:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        # the counter does not know the attention of processors
        known = sdpa_kernel(SDPBackend.MATH)
        with torch.inference_mode(), known, FlopCounterMode(display=False) as counter:
            network(x[:1], label[:1], label[:1])
        return {
            "parameters": sum(p.numel() for p in network.parameters()),
            "operations": counter.get_total_flops(),
            "versions": versions("torch", "diffusers"),
            "threads": torch.get_num_threads(),
        }

    def device_peak():
        return torch.cuda.max_memory_allocated() if device == "cuda" else None

    runs = {"sampler": sample, "preparation": prepare, "training step": train}
    return Side(runs, facts, device_peak)


if __name__ == "__main__":
    serve(make, "diffusers")
