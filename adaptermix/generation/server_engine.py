"""Servers as an engine: one queue of prompts for all of them, without torch.

A request that a server does not answer goes back into the queue, and any server can take it. The
server pauses, for as long as it asks or twice as long after each failure. It is then queried
again and gets back the adapters that it has lost. After several consecutive failures, it is
given up.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adaptermix.errors import AdaptermixError, ResourceError
from adaptermix.generation import server_client
from adaptermix.generation.adapter_effect import (
    FirstTokens,
    canaries,
    check_effect,
    is_another_model,
    write_zeros,
)
from adaptermix.generation.engine import (
    Generated,
    Limits,
    OnAnswers,
    Request,
    compose_queues,
    read_answer,
)
from adaptermix.generation.server_client import (
    PROMPT_HINT,
    Completion,
    Served,
    Server,
    pause,
    shared_folder,
    unbearable,
)
from adaptermix.generation.server_http import BusyError
from adaptermix.settings.shared import EngineSettings
from adaptermix.tables import number_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
_KEEP = 0.5  # seconds until an answer is stored, so that a kill does not lose it
_GOODBYE = 10.0  # seconds to unload adapters at the end
# A server's defaults come from the model's generation config; a request overrides them.
_GREEDY = {
    "temperature": 0.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
_GREEDY_IN_VLLM = {"top_k": 0, "min_p": 0.0}
_GREEDY_IN_LLAMA_CPP = {"samplers": ["temperature"]}  # no penalties, whatever it was started with
_BESIDE = 256  # maximum tokens decoded beside the base model, to see whether that changes it
_STOPS = 4  # maximum number of stop texts in OpenAI's API


@dataclass
class _Lane:
    """A server and its state.

    Attributes:
        server: The connection.
        served: What it last reported about itself.
        loaded: Its loaded adapters, least recently used first.
        checked: Adapters that were seen to have an effect.
        zeros: The adapter that replaces the base model, if any.
        is_mixing: Whether the server answers for the base model with an adapter's weights; None
            if unknown.
        failures: Number of consecutive failures.
        trouble: Why it pauses, or None.
        lost: Why it was given up, or None.
        answered: Number of its answers.
        is_open: Set unless it pauses.
    """

    server: Server
    served: Served
    loaded: list[Path] = field(default_factory=list)
    checked: set[Path] = field(default_factory=set)
    zeros: Path | None = None
    is_mixing: bool | None = None
    failures: int = 0
    trouble: BusyError | None = None
    lost: str | None = None
    answered: int = 0
    is_open: asyncio.Event = field(default_factory=asyncio.Event)


class ServerGenerator:
    """Servers that answer requests from one queue, with adapters loaded at run time."""

    def __init__(
        self,
        settings: EngineSettings,
        tokenizer: "PreTrainedTokenizerBase",
        stop_ids: Sequence[int],
        limits: Limits,
        servers: Sequence[Served],
    ) -> None:
        """Create the connections without sending a request.

        Args:
            settings: Precision, limits and requests at a time.
            tokenizer: Decodes answers to text.
            stop_ids: Tokens that end an answer. Some servers accept only a few: the first.
            limits: Capacity that the engine needs over its lifetime.
            servers: What the servers report about themselves.
        """
        self.settings = settings
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)
        self.capacity = limits.adapters
        # Two runs may load the same adapter on one server, and each unloads only its own.
        self._run = secrets.token_hex(4)
        self._adapters: list[Path] = []
        self._canaries: list[list[int]] = []
        self._loop = asyncio.new_event_loop()
        self._lanes = self._do(self._connect(servers))

    @property
    def notes(self) -> list[str]:
        """Notes on lost or unresponsive servers, and on servers that mix models."""
        lost = [
            f"{lane.server.url} was lost after {number_of(lane.answered, 'answer')} "
            f"({lane.lost or lane.trouble}); other servers answered the rest"
            for lane in self._lanes
            if lane.lost or lane.trouble
        ]
        mixing = [
            f"{lane.server.url} applies an adapter's weights when asked for the base model, as "
            "vLLM does on a CPU; the base model was decoded with an adapter of zeros instead"
            for lane in self._lanes
            if lane.is_mixing
        ]
        return [*lost, *mixing]

    def generate(self, requests: Sequence[Request], on_answers: OnAnswers) -> None:
        """Answer all requests in one queue, or in several if not all adapters fit.

        Raises:
            ArtifactError: A server cannot load an adapter, or ignores it.
            ResourceError: All servers are lost, or one cannot see the adapters' folder.
        """
        for queue, mine in compose_queues(requests, self.capacity):
            self._do(self._serve(queue, requests, mine, on_answers))

    def close(self) -> None:
        """Unload the adapters, and close all connections."""
        if not self._loop.is_closed():
            self._do(self._leave())
            self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    async def _connect(self, servers: Sequence[Served]) -> list[_Lane]:
        return [_Lane(Server(served.url, self.settings), served) for served in servers]

    async def _leave(self) -> None:
        await _cancel_others()

        async def leave(lane: _Lane) -> None:
            with suppress(BusyError, AdaptermixError, TimeoutError):
                async with asyncio.timeout(_GOODBYE if lane.lost is None else 1.0):
                    for adapter in lane.loaded:
                        await lane.server.unload(self._name(adapter))
            await lane.server.close()

        await asyncio.gather(*map(leave, self._lanes))

    async def _serve(
        self,
        queue: list[Path],
        requests: Sequence[Request],
        order: Sequence[int],
        on_answers: OnAnswers,
    ) -> None:
        """Load the adapters of a queue on every server, then answer its requests."""
        self._adapters = queue
        self._canaries = canaries([requests[index] for index in order])
        healthy = [lane for lane in self._alive() if lane.trouble is None]
        await asyncio.gather(*map(self._begin, healthy))
        await self._answer(requests, order, on_answers)

    def _alive(self) -> list[_Lane]:
        return [lane for lane in self._lanes if lane.lost is None]

    async def _answer(
        self, requests: Sequence[Request], order: Sequence[int], on_answers: OnAnswers
    ) -> None:
        waiting: asyncio.Queue[int] = asyncio.Queue()
        for index in order:
            waiting.put_nowait(index)
        ready: asyncio.Queue[tuple[int, Generated] | None] = asyncio.Queue()
        lanes = [
            asyncio.create_task(self._drive(lane, requests, waiting, ready))
            for lane in self._alive()
        ]
        for task in lanes:
            task.add_done_callback(lambda _: ready.put_nowait(None))
        answers: dict[int, Generated] = {}
        missing = len(order)
        try:
            while missing:
                try:
                    async with asyncio.timeout(_KEEP) as waiting_time:
                        while missing:
                            index, answer = await self._next(ready, lanes)
                            answers[index] = answer
                            missing -= 1
                except TimeoutError:
                    if not waiting_time.expired():
                        raise
                if answers:
                    on_answers(answers)
                    answers = {}
        finally:
            if answers:
                on_answers(answers)
            await _cancel_others()

    async def _next(
        self,
        ready: asyncio.Queue[tuple[int, Generated] | None],
        lanes: Sequence[asyncio.Task[None]],
    ) -> tuple[int, Generated]:
        """Return the next answer; None in the queue means that a server has stopped."""
        found = None
        while found is None:
            for task in lanes:
                if task.done():
                    task.result()  # raises the error that stopped it
            if ready.empty() and all(task.done() for task in lanes):
                raise self._none_left()
            found = await ready.get()
        return found

    async def _drive(
        self,
        lane: _Lane,
        requests: Sequence[Request],
        waiting: asyncio.Queue[int],
        ready: asyncio.Queue[tuple[int, Generated] | None],
    ) -> None:
        """Let one server answer requests, several at a time, until it is lost."""
        if lane.trouble is not None:
            await self._recover(lane)

        async def work() -> None:
            while lane.lost is None:
                await lane.is_open.wait()
                index = await waiting.get()
                if lane.lost is not None or not lane.is_open.is_set():
                    waiting.put_nowait(index)
                    continue
                try:
                    answer = await self._complete(lane, requests[index])
                except BusyError as error:
                    waiting.put_nowait(index)
                    if lane.trouble is None and lane.lost is None:
                        self._pause(lane, error)
                        await self._recover(lane)
                else:
                    lane.failures = 0
                    lane.answered += 1
                    ready.put_nowait((index, answer))

        room = min(self.settings.server_requests, len(requests))
        await asyncio.gather(*(work() for _ in range(room)))

    async def _complete(self, lane: _Lane, request: Request) -> Generated:
        body = {
            "model": self._model(lane, request.adapter),
            "prompt": request.prompt_ids,
            "max_tokens": self.settings.max_new_tokens,
            "stop_token_ids": self.stop_ids,
            **_GREEDY,
        }
        if lane.served.is_vllm:
            body |= _GREEDY_IN_VLLM | {"return_token_ids": True}
        elif texts := self._stop_texts():
            body["stop"] = texts
        if lane.served.software == "llamacpp":
            body |= _GREEDY_IN_LLAMA_CPP
            body["lora"] = [{"id": number, "scale": 0.0} for number in lane.served.preset]
        source = lane.served.source(self.settings.server_label)
        found = await lane.server.complete(body)
        if found.token_ids is not None:
            answer = read_answer(found.token_ids, self.stop_ids, self.tokenizer)
            return Generated(answer.text, answer.is_truncated, answer.tokens, source)
        return Generated(found.text, found.is_cut, found.tokens, source)

    def _stop_texts(self) -> list[str]:
        """Return the texts of the stop tokens, for servers that do not accept stop IDs."""
        texts = [
            str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
            for token in self.stop_ids
        ]
        return [text for text in texts if text.strip()][:_STOPS]

    async def _begin(self, lane: _Lane) -> None:
        """Prepare a server; if it does not answer, it recovers while the others work."""
        try:
            await self._prepare(lane)
        except BusyError as error:
            self._pause(lane, error)
        else:
            lane.is_open.set()

    def _pause(self, lane: _Lane, error: BusyError) -> None:
        lane.failures += 1
        lane.trouble = error
        lane.is_open.clear()

    async def _recover(self, lane: _Lane) -> None:
        """Wait for a server and prepare it again, or give it up."""
        while lane.trouble is not None:
            if lane.failures >= server_client.TRIES:
                return self._give_up(lane, lane.trouble.reason)
            if reason := unbearable(lane.trouble, self.settings):
                return self._give_up(lane, reason)
            await asyncio.sleep(pause(lane.trouble, lane.failures))
            try:
                await self._look_again(lane)
                await self._prepare(lane)
            except BusyError as error:
                self._pause(lane, error)
            except AdaptermixError as error:
                return self._give_up(lane, error.message)
            else:
                lane.trouble = None
                lane.is_open.set()

    def _give_up(self, lane: _Lane, reason: str) -> None:
        lane.lost = reason
        lane.trouble = None
        lane.is_open.set()  # waiting tasks then see that it is lost

    def _none_left(self) -> ResourceError:
        lane = self._lanes[-1]
        others = len(self._lanes) - 1
        also = f"; {others} more failed" if others else ""
        is_begun = any(lane.answered for lane in self._lanes)
        return ResourceError(
            f"all servers failed: {lane.server.url}: {lane.lost}{also}",
            hint="the answers so far are cached; run the same command again to continue"
            if is_begun
            else PROMPT_HINT,
        )

    async def _look_again(self, lane: _Lane) -> None:
        """Query a server's state after a failure, because it may have been restarted."""
        lane.served = await lane.server.look()
        if self._adapters:
            lane.served.check_loading()
        names = await lane.server.models()
        lane.loaded = [adapter for adapter in lane.loaded if self._name(adapter) in names]
        lane.checked &= set(lane.loaded)

    async def _prepare(self, lane: _Lane) -> None:
        """Load the adapters that a server lacks, and check that they have an effect.

        An adapter of zeros is the reference for the base model: in a batch with an adapter, vLLM
        on a CPU answers for the base model with whatever adapter is in its last slot, even one
        that another client has loaded.

        Raises:
            BusyError: The server does not answer now.
            ArtifactError: The server cannot load an adapter, or ignores it.
            ResourceError: The server cannot see the adapters' folder.
        """
        new = [adapter for adapter in self._adapters if adapter not in lane.checked]
        if not new:
            if lane.zeros is not None and lane.zeros not in lane.loaded:  # started anew
                await self._load(lane, lane.zeros)
            return
        zeros = write_zeros(new[0])
        await self._make_room(lane, {zeros, *self._adapters})
        for adapter in (zeros, *new):
            if adapter not in lane.loaded:
                await self._load(lane, adapter)
        plain, again, *others = await self._first_tokens(lane, [zeros, zeros, *new])
        check_effect(new, plain, again, others)
        lane.is_mixing = await self._is_mixing(lane, zeros, plain, again)
        lane.zeros = zeros if lane.is_mixing is not False else None
        lane.checked |= set(new)

    async def _load(self, lane: _Lane, adapter: Path) -> None:
        await lane.server.load(self._name(adapter), self._path(adapter))
        lane.loaded.append(adapter)

    async def _is_mixing(
        self, lane: _Lane, zeros: Path, plain: FirstTokens, again: FirstTokens
    ) -> bool | None:
        """Whether the base model's answers change while an adapter is decoded beside them.

        Returns:
            None if the adapter's answers were finished too early to tell.
        """
        lane.zeros = None
        room = (lane.served.context or 0) - max(map(len, self._canaries))
        length = max(self.settings.max_new_tokens, min(_BESIDE, room))
        beside = [
            asyncio.create_task(
                self._ask(lane, zeros, ids, {"max_tokens": length, "ignore_eos": True})
            )
            for ids in self._canaries
        ]
        try:
            for _ in range(2):  # the first may be answered before the others begin
                (base,) = await self._first_tokens(lane, [None])
                if is_another_model(plain, again, base):
                    return True
            return None if all(task.done() for task in beside) else False
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _make_room(self, lane: _Lane, wanted: set[Path]) -> None:
        """Unload other adapters as needed for room, least recently used first."""
        others = [adapter for adapter in lane.loaded if adapter not in wanted]
        while others and len(others) + len(wanted) > self.capacity + 1:
            adapter = others.pop(0)
            await lane.server.unload(self._name(adapter))
            lane.checked.discard(adapter)
        lane.loaded = [*others, *(adapter for adapter in lane.loaded if adapter in wanted)]

    async def _first_tokens(self, lane: _Lane, systems: Sequence[Path | None]) -> list[FirstTokens]:
        """Return log probabilities of the likeliest first tokens: [system][prompt][token]."""

        async def one(system: Path | None, ids: list[int]) -> dict[int, float]:
            wanted = {"max_tokens": 1, "logprobs": 5, "return_tokens_as_token_ids": True}
            found = await self._ask(lane, system, ids, wanted)
            if not found.likely:
                raise BusyError("its answer has no log probabilities", is_answer=True)
            return found.likely

        return [
            list(await asyncio.gather(*(one(system, ids) for ids in self._canaries)))
            for system in systems
        ]

    async def _ask(
        self, lane: _Lane, system: Path | None, ids: list[int], wanted: Mapping[str, Any]
    ) -> Completion:
        """Query vLLM without its prefix cache, so that all prompts are computed alike."""
        body = {
            "model": self._model(lane, system),
            "prompt": ids,
            "cache_salt": secrets.token_hex(16),
            **wanted,
            **_GREEDY,
            **_GREEDY_IN_VLLM,
        }
        return await lane.server.complete(body)

    def _model(self, lane: _Lane, adapter: Path | None) -> str:
        system = lane.zeros if adapter is None else adapter
        return lane.served.model if system is None else self._name(system)

    def _name(self, adapter: Path) -> str:
        """Return an adapter's name on the servers: its content hash, and the ID of this run."""
        return f"adaptermix-{adapter.name}-{self._run}"

    def _path(self, adapter: Path) -> str:
        """Return the path of an adapter on the servers."""
        here, there = shared_folder(self.settings)
        if here is None or there is None:
            return str(adapter)
        return f"{there.rstrip('/')}/{adapter.relative_to(here)}"


async def _cancel_others() -> None:
    """Cancel all other tasks of this loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
