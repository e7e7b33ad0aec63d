// The main job with openapi-fetch, on the types that openapi-typescript has generated.
import createClient from "openapi-fetch";
import type { components, paths } from "./links.js";

type Problem = components["schemas"]["Problem"];
type Headers = NonNullable<paths["/v1/documents/{id}"]["post"]["parameters"]["header"]>;
type Result<T> = { data?: T; error?: Problem; response: Response };

const doc = { path: { id: "doc_1" } };
const show = (...words: unknown[]) => console.log(words.join(" "));

function client(key: string) {
  return createClient<paths>({ baseUrl: process.env.URL!, headers: { "X-API-KEY": key } });
}

/** Return the body of a success. */
function body<T>({ data, error }: Result<T>): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

/** Show the status and the code of a problem, with all wrong fields. */
function refused({ error, response }: Result<unknown>): void {
  if (error === undefined) throw new Error("was not refused");
  show("refused", response.status, error.code, ...(error.errors ?? []).map((each) => each.field));
}

const api = client(process.env.KEY!);
const update = (body: components["schemas"]["UpdateDocument"], header: Headers = {}) =>
  api.POST("/v1/documents/{id}", { params: { ...doc, header }, body });

for (const [type, entity_id] of [["deal", "deal_1"], ["deal", "deal_2"], ["shipment", "ship_1"], ["shipment", "ship_2"], ["shipment", "ship_3"]] as const) {
  const entity = await api.PUT("/v1/entities/{type}/{entity_id}", { params: { path: { type, entity_id } } });
  show("entity", entity.response.status, body(entity).data.id);
}
const made = await api.POST("/v1/documents", {
  body: { id: "doc_1", display_name: "Contract", metadata: { pages: 3 } },
});
show("create", made.response.status, body(made).data.display_name, body(made).data.metadata?.pages);

let linkId = "";
for (let n = 0; n < 2; n++) {
  const asked = { entity_type: "deal", entity_id: "deal_1", role: "signed" } as const;
  const linked = await api.POST("/v1/documents/{id}/link", { params: doc, body: asked });
  linkId = body(linked).data.link_id;
  show("link", linked.response.status, body(linked).data.role, linked.response.headers.get("ETag"));
}
for (const resource_id of ["ship_1", "ship_2", "ship_3"]) {
  const linked = await api.POST("/v1/documents/{id}/links", { params: doc, body: { resource_id } });
  show("resource", linked.response.status, body(linked).data.resource.type, body(linked).message);
}

for (let page = 1, seen = 0, total = 1; seen < total; page++) {
  const listed = body(await api.GET("/v1/documents/{id}/links", { params: { ...doc, query: { page, limit: 3 } } }));
  seen += listed.data.length;
  total = listed.pagination.total;
  show("page", total, ...listed.data.map((link) => link.resource.id));
}
for (let cursor: string | null = ""; cursor !== null; ) {
  const query: { limit: number; cursor?: string } = cursor ? { limit: 3, cursor } : { limit: 3 };
  const listed = await api.GET("/v1/documents/{id}/links", { params: { ...doc, query } });
  show("cursor", ...body(listed).data.map((link) => link.resource.id));
  cursor = listed.response.headers.get("Next-Cursor");
}

const put = body(await api.PUT("/v1/documents/{id}", { params: doc, body: { display_name: "renamed" } }));
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

const link = { path: { id: "doc_1", link_id: linkId } };
for (const role of ["evidence", null]) {
  const changed = await api.PATCH("/v1/documents/{id}/links/{link_id}", { params: link, body: { role } });
  show("role", body(changed).data.role ?? "none");
}
const unlinked = await api.DELETE("/v1/documents/{id}/links/{link_id}", { params: link });
show("unlink", body(unlinked).message, unlinked.response.headers.get("ETag"));
const query = { resource_id: "ship_2" };
show("unlink", body(await api.DELETE("/v1/documents/{id}/links", { params: { ...doc, query } })).message);
show("again", body(await api.POST("/v1/documents/{id}/links", { params: doc, body: query })).message);

show("delete", body(await api.DELETE("/v1/documents/{id}", { params: doc })).data.id);
show("restore", body(await api.POST("/v1/documents/{id}/restore", { params: doc })).data.linked_entities.length);

const batch = await api.POST("/v1/links/batch", {
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
  const { response } = await update(once, { "Idempotency-Key": "key-1" });
  show("once", response.status, response.headers.get("Idempotent-Replayed") ?? "new");
}
const { response } = await api.GET("/v1/documents/{id}", { params: doc });
const tag = { "If-Match": response.headers.get("ETag")! };
show("match", (await update({ category: "a" }, tag)).response.status);

refused(await api.POST("/v1/documents/{id}/link", {
  params: doc,
  body: { entity_type: "deal", entity_id: "deal_1", role: "x".repeat(65) },
}));
refused(await client("wbk_unknown").GET("/v1/documents/{id}", { params: doc }));
refused(await client(process.env.READ_KEY!).DELETE("/v1/documents/{id}", { params: doc }));
refused(await api.GET("/v1/documents/{id}", { params: { path: { id: "doc_9" } } }));
refused(await api.POST("/v1/documents", { body: { id: "doc_1" } }));
refused(await update(once, tag));
refused(await update({ metadata: { text: "x".repeat(1_100_000) } }));
refused(await update({}, { "Idempotency-Key": "key-1" }));
const slow = client(process.env.SLOW_KEY!);
body(await slow.GET("/v1/documents/{id}", { params: doc }));
const limited = await slow.GET("/v1/documents/{id}", { params: doc });
refused(limited);
const header = (name: string) => limited.response.headers.get(name);
const wait = Number(header("Retry-After"));
const reset = Number(header("X-RateLimit-Reset"));
show(
  "limit",
  header("X-RateLimit-Limit"),
  header("X-RateLimit-Remaining"),
  reset * 1000 > Date.now() && "reset",
  header("RateLimit-Policy"),
  header("RateLimit")?.replace(`t=${wait}`, "t=wait"),
  wait > 0 && wait <= 86400 && "wait",
);
