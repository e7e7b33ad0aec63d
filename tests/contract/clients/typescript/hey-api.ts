// The main job with the client that @hey-api/openapi-ts has generated as `links`.
import { createClient } from "./links/client/index.js";
import * as links from "./links/index.js";
import type { Problem, UpdateDocument } from "./links/index.js";

type Result<T> = { data?: T | undefined; error?: Problem | undefined; response?: Response | undefined };

const path = { id: "doc_1" };
const show = (...words: unknown[]) => console.log(words.join(" "));

function client(key: string) {
  return createClient({ baseUrl: process.env.URL!, auth: ({ type }) => (type === "http" ? key : undefined) });
}

/** Return the body of a success. */
function body<T>({ data, error }: Result<T>): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

/** Show the status and the code of a problem, with all wrong fields. */
function refused({ error, response }: Result<unknown>): void {
  if (error === undefined) throw new Error("was not refused");
  show("refused", response?.status, error.code, ...(error.errors ?? []).map((each) => each.field));
}

const status = ({ response }: Result<unknown>) => response?.status;
const header = ({ response }: Result<unknown>, name: string) => response?.headers.get(name) ?? undefined;

const api = client(process.env.KEY!);
const update = (body: UpdateDocument, headers: { "Idempotency-Key"?: string; "If-Match"?: string } = {}) =>
  links.documentsUpdate({ client: api, path, body, headers });

for (const [type, entity_id] of [["deal", "deal_1"], ["deal", "deal_2"], ["shipment", "ship_1"], ["shipment", "ship_2"], ["shipment", "ship_3"]] as const) {
  const entity = await links.entitiesPut({ client: api, path: { type, entity_id } });
  show("entity", status(entity), body(entity).data.id);
}
const made = await links.documentsCreate({
  client: api,
  body: { id: "doc_1", display_name: "Contract", metadata: { pages: 3 } },
});
show("create", status(made), body(made).data.display_name, body(made).data.metadata?.pages);

let linkId = "";
for (let n = 0; n < 2; n++) {
  const asked = { entity_type: "deal", entity_id: "deal_1", role: "signed" } as const;
  const linked = await links.linksLink({ client: api, path, body: asked });
  linkId = body(linked).data.link_id;
  show("link", status(linked), body(linked).data.role, header(linked, "ETag"));
}
for (const resource_id of ["ship_1", "ship_2", "ship_3"]) {
  const linked = await links.linksLinkResource({ client: api, path, body: { resource_id } });
  show("resource", status(linked), body(linked).data.resource.type, body(linked).message);
}

for (let page = 1, seen = 0, total = 1; seen < total; page++) {
  const listed: links.ResourceLinkList = body(await links.linksListLinks({ client: api, path, query: { page, limit: 3 } }));
  seen += listed.data.length;
  total = listed.pagination.total;
  show("page", total, ...listed.data.map((link) => link.resource.id));
}
for (let cursor: string | undefined = ""; cursor !== undefined; ) {
  const query: { limit: number; cursor?: string } = cursor ? { limit: 3, cursor } : { limit: 3 };
  const listed: Result<links.ResourceLinkList> = await links.linksListLinks({ client: api, path, query });
  show("cursor", ...body(listed).data.map((link) => link.resource.id));
  cursor = header(listed, "Next-Cursor");
}

const put = body(await links.documentsPut({ client: api, path, body: { display_name: "renamed" } }));
show("put", put.data.display_name, put.data.linked_entities.length);
let updated = body(await update({ category: "legal" }));
show("update", updated.data.display_name, updated.data.category, updated.data.linked_entities.length);
updated = body(await update({ resources: {} }));
show("no edits", updated.data.linked_entities.length);
updated = body(await update({
  category: null,
  resources: { add: [{ entity_type: "deal", entity_id: "deal_2" }], remove: ["ship_3"] },
}));
show("edits", updated.data.category ?? "none", updated.changes.linked.length, updated.changes.unlinked.length);

const link = { id: "doc_1", link_id: linkId };
for (const role of ["evidence", null]) {
  show("role", body(await links.linksSetRole({ client: api, path: link, body: { role } })).data.role ?? "none");
}
const unlinked = await links.linksUnlink({ client: api, path: link });
show("unlink", body(unlinked).message, header(unlinked, "ETag"));
const resource = { resource_id: "ship_2" };
show("unlink", body(await links.linksUnlinkResource({ client: api, path, query: resource })).message);
show("again", body(await links.linksLinkResource({ client: api, path, body: resource })).message);

show("delete", body(await links.documentsDelete({ client: api, path })).data.id);
show("restore", body(await links.documentsRestore({ client: api, path })).data.linked_entities.length);

const batch = await links.batchApply({
  client: api,
  body: {
    operations: [
      { op: "link", document_id: "doc_1", resource_id: "ship_3" },
      { op: "link", document_id: "doc_1", entity_type: "deal", entity_id: "deal_9" },
    ],
  },
});
for (const { status, link, problem } of body(batch).data) show("batch", status, problem?.code ?? link?.resource.id);

const once = { display_name: "once" };
for (let n = 0; n < 2; n++) {
  const first = await update(once, { "Idempotency-Key": "key-1" });
  show("once", status(first), header(first, "Idempotent-Replayed") ?? "new");
}
const tag = { "If-Match": header(await links.documentsRead({ client: api, path }), "ETag")! };
show("match", status(await update({ category: "a" }, tag)));

const long = { entity_type: "deal", entity_id: "deal_1", role: "x".repeat(65) } as const;
refused(await links.linksLink({ client: api, path, body: long }));
refused(await links.documentsRead({ client: client("wbk_unknown"), path }));
refused(await links.documentsDelete({ client: client(process.env.READ_KEY!), path }));
refused(await links.documentsRead({ client: api, path: { id: "doc_9" } }));
refused(await links.documentsCreate({ client: api, body: { id: "doc_1" } }));
refused(await update(once, tag));
refused(await update({ metadata: { text: "x".repeat(1_100_000) } }));
refused(await update({}, { "Idempotency-Key": "key-1" }));
const slow = client(process.env.SLOW_KEY!);
body(await links.documentsRead({ client: slow, path }));
const limited = await links.documentsRead({ client: slow, path });
refused(limited);
const wait = Number(header(limited, "Retry-After"));
const reset = Number(header(limited, "X-RateLimit-Reset"));
show(
  "limit",
  header(limited, "X-RateLimit-Limit"),
  header(limited, "X-RateLimit-Remaining"),
  reset * 1000 > Date.now() && "reset",
  header(limited, "RateLimit-Policy"),
  header(limited, "RateLimit")?.replace(`t=${wait}`, "t=wait"),
  wait > 0 && wait <= 86400 && "wait",
);
