"""The mutations: each is one transaction, and its payload is read after it."""

from typing import Annotated

import strawberry

from sfm_graph.api.gql import access, copies, fading, history, payloads
from sfm_graph.api.gql.consolidation import (
    ConsolidateInput,
    ConsolidatePayload,
    MergeMemoriesInput,
    MergeMemoriesPayload,
)
from sfm_graph.api.gql.context import GraphInfo
from sfm_graph.api.gql.foresight import (
    PredictNextInput,
    PredictNextPayload,
    ReflectInput,
    ReflectPayload,
    ReportOutcomeInput,
    ReportOutcomePayload,
)
from sfm_graph.api.gql.link_inputs import LinkInput, LinkManyInput, UnlinkInput, UpdateLinkInput
from sfm_graph.api.gql.memory_inputs import (
    EraseInput,
    ForgetInput,
    ForgetManyInput,
    RememberInput,
    RememberManyInput,
    StoreMemoryInput,
    UpdateMemoryInput,
)
from sfm_graph.api.gql.namespace_inputs import CreateNamespaceInput, DeleteNamespaceInput, UpdateNamespaceInput
from sfm_graph.api.gql.namespaces import Namespace
from sfm_graph.api.gql.scalars import resolver
from sfm_graph.api.gql.types import Link, Memory
from sfm_graph.domain import validate

_INPUT = strawberry.argument(description="What to do.")


@strawberry.type(description="Writing. Each field is one transaction, one after the other.")
class Mutation:
    """The root of mutations."""

    @resolver("Store a memory; at an existing key or coordinate it replaces that memory.")
    async def store_memory(
        self, info: GraphInfo, input: Annotated[StoreMemoryInput, _INPUT]
    ) -> payloads.StoreMemoryPayload:
        async with info.context.writing() as services:
            key = input.once(info.context.principal)
            stored = await services.memory_writes.store(input.scope(), input.given(), key=key)
        return payloads.StoreMemoryPayload.from_domain(stored)

    @resolver("Store something at a coordinate that the server chooses.")
    async def remember(self, info: GraphInfo, input: Annotated[RememberInput, _INPUT]) -> payloads.RememberPayload:
        async with info.context.writing() as services:
            key = input.once(info.context.principal)
            stored = await services.memory_writes.store(input.scope(), input.given(), key=key)
        return payloads.RememberPayload.from_domain(stored)

    @resolver("Store up to 10,000 memories: all or none, unless `partial`.")
    async def remember_many(
        self, info: GraphInfo, input: Annotated[RememberManyInput, _INPUT]
    ) -> payloads.RememberManyPayload:
        async with info.context.writing() as services:
            key = input.once(info.context.principal)
            result = await services.memory_writes.store_many(
                input.scope(), input.memories(), partial=input.partial, key=key
            )
        return payloads.RememberManyPayload.from_domain(result)

    @resolver("Replace only the given fields of a memory.")
    async def update_memory(
        self, info: GraphInfo, input: Annotated[UpdateMemoryInput, _INPUT]
    ) -> payloads.UpdateMemoryPayload:
        async with info.context.writing() as services:
            key, scope = input.once(info.context.principal), input.scope()
            memory = await services.memory_writes.update(scope, input.ref.within(scope), input.given(), key=key)
        return payloads.UpdateMemoryPayload(memory=Memory.from_domain(memory))

    @resolver("Take a memory with its links out of every answer.")
    async def forget(self, info: GraphInfo, input: Annotated[ForgetInput, _INPUT]) -> payloads.ForgetPayload:
        async with info.context.writing() as services:
            key, scope = input.once(info.context.principal), input.scope()
            refs, version = [input.ref.within(scope)], input.expected_version
            rows = await services.memory_writes.forget_many(scope, refs, expected_version=version, key=key)
        return payloads.ForgetPayload.of(scope, rows)

    @resolver("Forget up to 10,000 memories in one transaction.")
    async def forget_many(
        self, info: GraphInfo, input: Annotated[ForgetManyInput, _INPUT]
    ) -> payloads.ForgetManyPayload:
        async with info.context.writing() as services:
            key, scope, which = input.once(info.context.principal), input.scope(), input.which()
            if isinstance(which, list):
                rows = await services.memory_writes.forget_many(scope, which, key=key)
            else:
                rows = await services.memory_writes.forget_where(scope, which, key=key)
        return payloads.ForgetManyPayload.of(scope, rows)

    @resolver("Forget a memory and purge what the change log says of it.")
    async def erase(self, info: GraphInfo, input: Annotated[EraseInput, _INPUT]) -> payloads.ErasePayload:
        async with info.context.writing() as services:
            key, scope = input.once(info.context.principal), input.scope()
            refs, version = [input.ref.within(scope)], input.expected_version
            rows = await services.memory_writes.erase_many(scope, refs, expected_version=version, key=key)
        return payloads.ErasePayload.of(scope, rows)

    @resolver("Hold a memory: until it is released nothing forgets or erases it.")
    async def hold_memory(
        self, info: GraphInfo, input: Annotated[fading.HoldMemoryInput, _INPUT]
    ) -> fading.HoldMemoryPayload:
        async with info.context.writing() as services:
            key, scope = input.once(info.context.principal), input.scope()
            memory = await services.holds.hold(scope, input.ref.within(scope), key=key)
        return fading.HoldMemoryPayload(memory=Memory.from_domain(memory))

    @resolver("Let go of a memory that is held.")
    async def release_memory(
        self, info: GraphInfo, input: Annotated[fading.ReleaseMemoryInput, _INPUT]
    ) -> fading.ReleaseMemoryPayload:
        async with info.context.writing() as services:
            key, scope = input.once(info.context.principal), input.scope()
            memory = await services.holds.release(scope, input.ref.within(scope), key=key)
        return fading.ReleaseMemoryPayload(memory=Memory.from_domain(memory))

    @resolver("Do now what is due of a namespace's memories: summarise, forget, erase; or say what would be done.")
    async def decay(self, info: GraphInfo, input: Annotated[fading.DecayInput, _INPUT]) -> fading.DecayPayload:
        async with info.context.writing() as services:
            done = await services.fading.decay(input.scope(), dry_run=input.dry_run, limit=input.limit)
        return fading.DecayPayload.from_domain(done)

    @resolver("Make semantic memories of episodes that belong together, each in its transaction; or say which.")
    async def consolidate(self, info: GraphInfo, input: Annotated[ConsolidateInput, _INPUT]) -> ConsolidatePayload:
        async with info.context.writing() as services:
            report = await services.consolidation.run(input.scope(), dry_run=input.dry_run)
        await info.context.spend(len(report.groups))
        return ConsolidatePayload.from_domain(input.scope(), report, dry_run=input.dry_run)

    @resolver("Merge memories into another one, with their links; they are forgotten.")
    async def merge_memories(
        self, info: GraphInfo, input: Annotated[MergeMemoriesInput, _INPUT]
    ) -> MergeMemoriesPayload:
        async with info.context.writing() as services:
            key, scope = input.once(info.context.principal), input.scope()
            done = await services.merging.merge(scope, input.into.within(scope), input.others(), key=key)
        return MergeMemoriesPayload.from_domain(done)

    @resolver("Link two memories that exist; the same link again is updated.")
    async def link(self, info: GraphInfo, input: Annotated[LinkInput, _INPUT]) -> payloads.LinkPayload:
        async with info.context.writing() as services:
            key = input.once(info.context.principal)
            stored = (await services.links.link_many(input.scope(), [input.link()], key=key)).stored[0]
        return payloads.LinkPayload.from_domain(stored)

    @resolver("Make up to 10,000 links: all or none, unless `partial`.")
    async def link_many(self, info: GraphInfo, input: Annotated[LinkManyInput, _INPUT]) -> payloads.LinkManyPayload:
        async with info.context.writing() as services:
            key = input.once(info.context.principal)
            result = await services.links.link_many(input.scope(), input.links(), partial=input.partial, key=key)
        return payloads.LinkManyPayload.from_domain(result)

    @resolver("Replace the weight, the properties or the end of validity of a link.")
    async def update_link(
        self, info: GraphInfo, input: Annotated[UpdateLinkInput, _INPUT]
    ) -> payloads.UpdateLinkPayload:
        async with info.context.writing() as services:
            key, (namespace, patch) = input.once(info.context.principal), input.patch()
            changed = await services.links.update_many(namespace, [patch], key=key)
        return payloads.UpdateLinkPayload(link=Link.from_domain(changed[0]))

    @resolver("Remove links between memories.")
    async def unlink(self, info: GraphInfo, input: Annotated[UnlinkInput, _INPUT]) -> payloads.UnlinkPayload:
        async with info.context.writing() as services:
            key, scope = input.once(info.context.principal), input.scope()
            which = input.which()
            if isinstance(which, tuple):
                rows = await services.links.unlink_between(scope, *which, input.link_type(), key=key)
            else:
                rows = await services.links.unlink_many(scope, [which], key=key)
        return payloads.UnlinkPayload.of(scope, rows)

    @resolver("Copy memories of another namespace, with the links among them; the right to read it is needed, too.")
    async def copy_memories(
        self, info: GraphInfo, input: Annotated[copies.CopyMemoriesInput, _INPUT]
    ) -> copies.CopyMemoriesPayload:
        async with info.context.writing() as services:
            made = await services.copies.copy(input.scope(), input.source, input.given(), follow=input.follow)
        return copies.CopyMemoriesPayload(copy=copies.Copy.from_domain(made))

    @resolver("End a copy: it is kept in step no longer.")
    async def revoke_copy(
        self, info: GraphInfo, input: Annotated[copies.RevokeCopyInput, _INPUT]
    ) -> copies.RevokeCopyPayload:
        async with info.context.writing() as services:
            ended = await input.ended(services.copies)
        return copies.RevokeCopyPayload(copy=copies.Copy.from_domain(ended))

    @resolver("Bring a memory back to a version; a forgotten one under its id, with its links.")
    async def restore(
        self, info: GraphInfo, input: Annotated[history.RestoreInput, _INPUT]
    ) -> history.RestorePayload:
        async with info.context.writing() as services:
            scope = input.scope()
            restored = await services.restoring.restore(
                scope, input.ref.within(scope), version=input.wanted(), links=input.links,
                expected_version=input.expected(), key=input.once(info.context.principal),
            )  # fmt: skip
        return await history.RestorePayload.of(info.context, restored)

    @resolver("Bring a link back to a version; a forgotten one under its id.")
    async def restore_link(
        self, info: GraphInfo, input: Annotated[history.RestoreLinkInput, _INPUT]
    ) -> history.RestoreLinkPayload:
        async with info.context.writing() as services:
            restored = await services.restoring.restore_link(
                *input.where(), version=input.wanted(), expected_version=input.expected(),
                key=input.once(info.context.principal),
            )  # fmt: skip
        return history.RestoreLinkPayload.from_domain(restored)

    @resolver("Predict what comes next, and store each prediction with its evidence.")
    async def predict_next(self, info: GraphInfo, input: Annotated[PredictNextInput, _INPUT]) -> PredictNextPayload:
        async with info.context.writing() as services:
            key, scope = input.once(info.context.principal), input.scope()
            found = await services.foresights.predict(
                scope, context=input.context, around=input.memory(), first=input.first, agent=input.agent, key=key
            )
        return PredictNextPayload.from_domain(found)

    @resolver("Store what became of a prediction, with its error.")
    async def report_outcome(
        self, info: GraphInfo, input: Annotated[ReportOutcomeInput, _INPUT]
    ) -> ReportOutcomePayload:
        async with info.context.writing() as services:
            scope = input.scope()
            done = await services.outcomes.report(
                scope, input.prediction.within(scope), input.outcome, correct=input.correct, value=input.value,
                agent=input.agent, key=input.idempotency_key,
            )  # fmt: skip
        return ReportOutcomePayload.from_domain(done)

    @resolver("Look back for what errs, surprises, is stale or contradicts; store what is found, once each.")
    async def reflect(self, info: GraphInfo, input: Annotated[ReflectInput, _INPUT]) -> ReflectPayload:
        async with info.context.writing() as services:
            scope = validate.namespace(input.namespace)
            found = await services.reflections.reflect(scope, since=input.since, dry_run=input.dry_run)
        return ReflectPayload.from_domain(scope, found)

    @resolver("Make a namespace, or replace the settings of one.")
    async def create_namespace(
        self, info: GraphInfo, input: Annotated[CreateNamespaceInput, _INPUT]
    ) -> payloads.CreateNamespacePayload:
        async with info.context.writing() as services:
            stored = await services.namespaces.put(
                input.name, settings=input.settings(), model=input.declared_model()
            )
        return payloads.CreateNamespacePayload(namespace=Namespace.from_domain(stored))

    @resolver("Replace the settings of a namespace that exists.")
    async def update_namespace(
        self, info: GraphInfo, input: Annotated[UpdateNamespaceInput, _INPUT]
    ) -> payloads.UpdateNamespacePayload:
        async with info.context.writing() as services:
            stored = await services.namespaces.put(
                input.name, settings=input.settings(), model=input.declared_model(), existing=True
            )
        return payloads.UpdateNamespacePayload(namespace=Namespace.from_domain(stored))

    @resolver("Delete a namespace with all that is in it, its change log too.")
    async def delete_namespace(
        self, info: GraphInfo, input: Annotated[DeleteNamespaceInput, _INPUT]
    ) -> payloads.DeleteNamespacePayload:
        async with info.context.writing() as services:
            await services.namespaces.delete(validate.namespace(input.name), confirm=input.confirm)
        return payloads.DeleteNamespacePayload(name=input.name)

    @resolver("Make an API key; the answer is the only one that has its token.")
    async def create_api_key(
        self, info: GraphInfo, input: Annotated[access.CreateApiKeyInput, _INPUT]
    ) -> access.CreateApiKeyPayload:
        async with info.context.writing() as services:
            made = await services.keys.create(
                input.name, scopes=input.scopes, namespaces=input.namespaces, expires_at=input.expires_at
            )
        return access.CreateApiKeyPayload.from_domain(made)

    @resolver("Revoke an API key. Again it changes nothing.")
    async def revoke_api_key(
        self, info: GraphInfo, input: Annotated[access.RevokeApiKeyInput, _INPUT]
    ) -> access.RevokeApiKeyPayload:
        async with info.context.writing() as services:
            revoked = await services.keys.revoke(input.key)
            needed = await services.authentication.needed_after_revoking()
        return access.RevokeApiKeyPayload(api_key=access.ApiKey.from_domain(revoked), token_needed=needed)
