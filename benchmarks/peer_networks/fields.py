"""Fields of our networks."""

import dataclasses


def check_others(net, *followed: str) -> None:
    """Ends the benchmark unless all fields that the peer does not follow have their defaults."""
    followed = (*followed, "dtype", "remat", "parent", "name")
    for field in dataclasses.fields(net):
        if field.name not in followed and (value := getattr(net, field.name)) != field.default:
            raise SystemExit(
                f"error: the peer has net.{field.name}={field.default!r}, not {value!r}"
            )
