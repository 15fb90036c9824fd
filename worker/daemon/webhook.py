"""Posts the events of the outbox to ``N8N_WEBHOOK_URL``: at least once, in order per entity, in no delivery's way."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

import anyio
import httpx
import psycopg
import structlog

from worker.domain.signature import signature_headers
from worker.entities.declaration import Entity
from worker.observe.monitor import Monitor
from worker.postgres.backoff import LogThrottle, backoff
from worker.postgres.connection import Connection
from worker.postgres.errors import in_one_line
from worker.postgres.transaction import COMMIT, send
from worker.settings import SettingsError
from worker.supabase import outbox
from worker.supabase.outbox import Held, Waiting
from worker.sync.databases import Databases

log = structlog.get_logger("worker.webhook")

POST_SECONDS = 10.0
"""How long a receiver may take to answer; after that the event is posted again."""
COUNT_PAUSE = 5.0
"""Seconds between two counts of what waits, at least."""
COUNT_SHARE = 50
"""A count is followed by a pause this many times as long, however many wait."""
LOOK_PAUSE = 1.0
"""Seconds between two looks for an event that committed after later ones, while there are later ones to post."""


@dataclass(frozen=True)
class Webhook:
    """The receiver of events. The address may be a secret: it is never shown, its host is."""

    url: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    keys: tuple[bytes, ...] = field(default=(), repr=False)
    """What the events are signed with; none: they are not."""

    @property
    def host(self) -> str:
        """The host, fit for a log."""
        return urlsplit(self.url).hostname or ""


class NotPosted(Exception):
    """The receiver did not take an event. The text says why, in one line."""

    def __init__(self, reason: str, event: Waiting) -> None:
        """Keep the event."""
        super().__init__(reason)
        self.event = event


def new_client() -> httpx.AsyncClient:
    """A client that uses the environment's proxies and certificates.

    Raises:
        SettingsError: they cannot be used.
    """
    try:
        return httpx.AsyncClient(follow_redirects=False, timeout=POST_SECONDS)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        what = "set an http:// proxy" if isinstance(error, ImportError) else type(error).__name__
        problem = (
            "N8N_WEBHOOK_URL: the environment's proxy (ALL_PROXY, HTTP_PROXY, HTTPS_PROXY) or certificates"
            f" (SSL_CERT_FILE, SSL_CERT_DIR) cannot be used to post: {what}"
        )
        raise SettingsError([problem]) from None


async def post_events(
    databases: Databases,
    entity: Entity,
    webhook: Webhook,
    monitor: Monitor,
    wait: Callable[[], Awaitable[object]],
) -> NoReturn:
    """Post the events of an entity until cancelled; what fails is retried, with delays that grow, until it succeeds.

    Args:
        databases: both databases; Neon is not asked.
        entity: whose events.
        webhook: their receiver.
        monitor: gets a report of every attempt; a dead receiver is a warning, the worker stays ready.
        wait: returns when there may be an event, also one of another worker's that has died.
    """
    async with new_client() as client:
        poster = _Poster(databases, entity, webhook, monitor, client)
        while True:
            await poster.empty_outbox()
            await wait()


class _Poster:
    """Posts the events of an entity one by one. The cost of a post does not depend on how many wait, or were posted."""

    def __init__(
        self, databases: Databases, entity: Entity, webhook: Webhook, monitor: Monitor, client: httpx.AsyncClient
    ) -> None:
        self._databases, self._entity, self._webhook, self._client = databases, entity, webhook, client
        self._monitor, self._delays, self._throttle = monitor, backoff(), LogThrottle()
        self._pending = 0
        """How many wait, as last counted, without those posted since."""
        self._count_at = self._look_at = 0.0
        self._last = 0
        """The number of the event that was posted last."""

    async def empty_outbox(self) -> None:
        """Post until no event waits, or another worker posts."""
        more = True
        while more:
            try:
                more = await self._post_oldest()
            except Held:
                return  # the worker that posts reports how it goes
            except NotPosted as error:
                reason = str(error)
                self._monitor.not_posted(self._entity.name, reason, self._pending, error.event.age)
                await self._delay(reason)
            except (psycopg.Error, OSError) as error:
                await self._delay(in_one_line(error))
            else:
                self._delays = backoff()
                self._monitor.posted(self._entity.name, self._pending if more else None)

    async def _delay(self, reason: str) -> None:
        """Log a failure, and wait until the next try."""
        delay = next(self._delays)
        if (times := self._throttle.seen(reason)) is not None:
            log.warning(
                "webhook.failed", entity=self._entity.name, host=self._webhook.host, error=reason, times=times,
                pause=round(delay, 2),
            )  # fmt: skip
        await anyio.sleep(delay)

    async def _post_oldest(self) -> bool:
        """Post the oldest event; False where none waits.

        Raises:
            NotPosted: it stays in the outbox.
            psycopg.Error: it stays in the outbox, and may have been posted.
            Held: another worker posts.
        """
        async with self._databases.supabase.connection() as supabase:
            event = await self._oldest(supabase)
            if event is None:
                self._pending = 0
                return False
            if (reason := await _post(self._databases, event, self._webhook, self._client)) == STOPPED:
                return False
            if reason:
                await outbox.not_posted(supabase, event, reason)
                await self._count(supabase)
                raise NotPosted(reason, event)
            await outbox.posted(supabase, event)
            self._last = event.id
            self._pending = max(0, self._pending - 1)
            await self._count(supabase)
        return True

    async def _oldest(self, supabase: Connection) -> Waiting | None:
        after = self._last if time.monotonic() < self._look_at else 0
        event = await outbox.oldest(supabase, self._entity, after=after)
        if event is None and after:
            await send(supabase, COMMIT)
            after, event = 0, await outbox.oldest(supabase, self._entity)
        if not after:
            self._look_at = time.monotonic() + LOOK_PAUSE
        if event is None:
            await send(supabase, COMMIT)
        return event

    async def _count(self, supabase: Connection) -> None:
        began = time.monotonic()
        if began >= self._count_at:
            self._pending = await outbox.pending(supabase, self._entity)
            took = time.monotonic() - began
            self._count_at = began + took + max(COUNT_PAUSE, COUNT_SHARE * took)


STOPPED = "the worker stops"


async def _post(databases: Databases, event: Waiting, webhook: Webhook, client: httpx.AsyncClient) -> str:
    """Post an event; returns why it was not taken, nothing where it was."""
    content = json.dumps(event.event, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": event.event["id"]}
    if webhook.token:
        headers["Authorization"] = f"Bearer {webhook.token}"
    if webhook.keys:
        headers |= signature_headers(webhook.keys, event.event["id"], int(time.time()), content)
    reason = STOPPED
    async with anyio.create_task_group() as posting:

        async def give_up() -> None:
            await databases.stop.wait()
            posting.cancel_scope.cancel()

        posting.start_soon(give_up)
        try:
            with anyio.fail_after(POST_SECONDS):
                # The answer's body is not read: it tells nothing, and may never end.
                async with client.stream("POST", webhook.url, content=content, headers=headers) as answer:
                    reason = "" if answer.is_success else _in_words(answer.status_code)
        except TimeoutError:
            reason = f"no answer within {POST_SECONDS:.0f} s"
        except Exception as error:  # noqa: BLE001 - what an address or an answer may do must not end the worker
            reason = in_one_line(error) if str(error) else type(error).__name__
        posting.cancel_scope.cancel()
    return reason


def _in_words(status: int) -> str:
    if 300 <= status < 400:
        return f"HTTP {status}: redirects are not followed, give the address it leads to"
    if status in (401, 403):
        return f"HTTP {status}: check N8N_WEBHOOK_TOKEN and N8N_WEBHOOK_SECRET"
    if status == 404:
        return "HTTP 404: is the workflow active, and the address its production one?"
    return f"HTTP {status}"
