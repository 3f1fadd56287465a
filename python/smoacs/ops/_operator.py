"""Torch operators in one declaration, without the import of TorchDynamo.

``torch.library.custom_op`` wraps every kernel so that its first call imports ``torch._dynamo``,
which takes longer than most commands. The parts it is made of do not.

A call in eager mode goes past torch's dispatcher, which takes longer than small kernels do: 7 µs
for a call, 25 µs where it is differentiated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])

_LIBRARY = torch.library.Library("smoacs", "FRAGMENT")


def operator(
    name: str,
    *,
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
    constant: bool = False,
) -> Callable[[_Kernel], _Kernel]:
    """Make a function the kernel of the operator ``torch.ops.smoacs.NAME`` on all devices.

    The operator's schema is read from the function's annotations. The function must not change its
    arguments, nor return them or views of them; where devices differ, it asks its tensors, or
    leaves it to :func:`smoacs.ops._native.launch`. What users call checks the arguments first::

        @operator("scale", fake=lambda x, _: torch.empty_like(x), backward=..., setup_context=...)
        def _scale(x: Tensor, factor: float) -> Tensor:
            out = torch.empty_like(x)
            launch("scale", x, x=x, factor=factor, out=out)
            return out

    Of a list of tensors, ``backward`` gives a list. Test it with :func:`torch.library.opcheck`.

    Parameters
    ----------
    name : str
        Name of the operator.
    fake : callable
        Takes the operator's arguments, gives empty tensors shaped like its results: what
        ``torch.compile`` runs. A size that depends on values is
        ``torch.library.get_ctx().new_dynamic_size()``.
    backward, setup_context : callable, optional
        The derivative, as :func:`torch.library.register_autograd` takes it; without it the
        operator refuses to be differentiated.
    constant : bool
        Whether the results are constants, whatever requires a gradient among the arguments. Calls
        then pass by autograd, which spares 5 µs.

    Returns
    -------
    callable
        Decorator that turns the function into the operator.
    """

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"smoacs::{name} has no derivative")

    def declare(kernel: _Kernel) -> _Kernel:
        run = _untraced(kernel)
        schema = torch.library.infer_schema(kernel, mutates_args=(), op_name=name)
        _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
        _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
        qualified = f"smoacs::{name}"
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        if constant:
            _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
        else:
            torch.library.register_autograd(
                qualified, backward or refuse, setup_context=setup_context, lib=_LIBRARY
            )
        dispatched = getattr(torch.ops.smoacs, name).default
        node = _node(run, backward, setup_context) if backward else None

        def call(*arguments: Any, **named: Any) -> Any:
            if named or _watched(arguments):
                return dispatched(*arguments, **named)
            if constant or not _differentiated(arguments):
                return run(*arguments)
            return node.apply(*arguments) if node else dispatched(*arguments)

        return cast(_Kernel, call)

    return declare


_TENSORS = (Tensor, torch.nn.Parameter)
_CONSTANTS = (float, int, bool, str, torch.dtype, type(None))


def _watched(arguments: tuple[Any, ...]) -> bool:
    """Whether a compiler, profiler, mode, transform or subclass wants to see the operator."""
    if (
        torch.compiler.is_compiling()
        or torch._C._autograd._profiler_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    ):
        return True
    return _unusual(arguments)


def _unusual(values: Sequence[Any]) -> bool:
    for value in values:
        if type(value) in _TENSORS:
            if value.is_meta:
                return True
        elif type(value) is list:
            if _unusual(value) or _differentiated(value):
                return True
        elif type(value) not in _CONSTANTS:
            return True
    return False


def _differentiated(arguments: Sequence[Any]) -> bool:
    if torch.is_grad_enabled():
        for value in arguments:
            if isinstance(value, Tensor) and value.requires_grad:
                return True
    return False


def _node(
    run: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., None] | None,
) -> Any:
    """The operator as a function of autograd."""

    def forward(ctx: Any, *arguments: Any) -> Any:
        results = run(*arguments)
        if setup_context is not None:
            setup_context(ctx, arguments, results)
        return results

    def differentiate(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        # Tensors in lists are constants here; the dispatcher gets those that need a gradient.
        return tuple(None if isinstance(g, list) else g for g in backward(ctx, *grads))

    parts = {"forward": staticmethod(forward), "backward": staticmethod(differentiate)}
    return type("Operator", (torch.autograd.Function,), parts)


def _untraced(kernel: _Kernel) -> _Kernel:
    """Keep TorchDynamo, where something has loaded it, from compiling the kernel's own code."""
    hidden: _Kernel | None = None

    def run(*arguments: Any) -> Any:
        nonlocal hidden
        if "torch._dynamo" not in sys.modules:
            return kernel(*arguments)
        hidden = hidden or torch.compiler.disable(kernel)  # this loads it
        return hidden(*arguments)

    return cast(_Kernel, run)
