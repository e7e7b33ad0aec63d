// The main job with the client that OpenAPI Generator has generated as the package links.

import java.net.URI;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import links.ApiClient;
import links.ApiException;
import links.ApiResponse;
import links.api.DocumentsApi;
import links.api.DocumentsApi.APIDocumentsCreateRequest;
import links.api.DocumentsApi.APIDocumentsDeleteRequest;
import links.api.DocumentsApi.APIDocumentsPutRequest;
import links.api.DocumentsApi.APIDocumentsReadRequest;
import links.api.DocumentsApi.APIDocumentsRestoreRequest;
import links.api.DocumentsApi.APIDocumentsUpdateRequest;
import links.api.EntitiesApi;
import links.api.EntitiesApi.APIEntitiesPutRequest;
import links.api.LinksApi;
import links.api.LinksApi.APIBatchApplyRequest;
import links.api.LinksApi.APILinksLinkRequest;
import links.api.LinksApi.APILinksLinkResourceRequest;
import links.api.LinksApi.APILinksListLinksRequest;
import links.api.LinksApi.APILinksSetRoleRequest;
import links.api.LinksApi.APILinksUnlinkRequest;
import links.api.LinksApi.APILinksUnlinkResourceRequest;
import links.model.BatchRequest;
import links.model.ChangedDocumentReply;
import links.model.Edits;
import links.model.EntityItem;
import links.model.EntityType;
import links.model.LinkChanges;
import links.model.LinkReply;
import links.model.LinkRequest;
import links.model.Operation;
import links.model.OperationOutcome;
import links.model.Problem;
import links.model.PutDocument;
import links.model.ResourceItem;
import links.model.ResourceLinkList;
import links.model.ResourceLinkReply;
import links.model.ResourceLinkRequest;
import links.model.RoleRequest;
import links.model.UnlinkReply;
import links.model.UpdateDocument;

public class Main {
  private static final String DOC = "doc_1";

  private interface Call {
    void run() throws ApiException;
  }

  private static ApiClient client(String key) {
    URI url = URI.create(System.getenv("URL"));
    return new ApiClient()
        .setScheme(url.getScheme())
        .setHost(url.getHost())
        .setPort(url.getPort())
        .setRequestInterceptor(request -> request.header("X-API-KEY", key));
  }

  private static DocumentsApi documents(String key) {
    return new DocumentsApi(client(key));
  }

  private static final ApiClient CLIENT = client(System.getenv("KEY"));
  private static final DocumentsApi DOCUMENTS = new DocumentsApi(CLIENT);
  private static final LinksApi LINKS = new LinksApi(CLIENT);

  private static void show(Object... words) {
    System.out.println(Arrays.stream(words).map(String::valueOf).collect(Collectors.joining(" ")));
  }

  private static Object orNone(Object value) {
    return value == null ? "none" : value;
  }

  private static String header(ApiResponse<?> answer, String name) {
    List<String> values = answer.getHeaders().get(name.toLowerCase());
    return values == null ? null : values.get(0);
  }

  /** Makes a call that must be refused; shows the status and the code of the problem, with all wrong fields. */
  private static ApiException refused(Call call) throws Exception {
    try {
      call.run();
    } catch (ApiException error) {
      Problem problem = CLIENT.getObjectMapper().readValue(error.getResponseBody(), Problem.class);
      String fields = problem.getErrors().stream().map(each -> " " + each.getField()).collect(Collectors.joining());
      show("refused", error.getCode(), problem.getCode() + fields);
      return error;
    }
    throw new IllegalStateException("was not refused");
  }

  private static ApiResponse<ChangedDocumentReply> update(
      UpdateDocument change, Consumer<APIDocumentsUpdateRequest.Builder> headers) throws ApiException {
    APIDocumentsUpdateRequest.Builder request = APIDocumentsUpdateRequest.newBuilder().id(DOC).updateDocument(change);
    headers.accept(request);
    return DOCUMENTS.documentsUpdateWithHttpInfo(request.build());
  }

  private static ChangedDocumentReply update(UpdateDocument change) throws ApiException {
    return update(change, request -> {}).getData();
  }

  public static void main(String[] arguments) throws Exception {
    String linkId = link();
    list();
    change(linkId);
    remove(linkId);
    refuse(condition());
  }

  private static String link() throws ApiException {
    EntitiesApi entities = new EntitiesApi(CLIENT);
    for (String id : List.of("deal_1", "deal_2", "ship_1", "ship_2", "ship_3")) {
      EntityType type = id.startsWith("deal") ? EntityType.DEAL : EntityType.SHIPMENT;
      var entity =
          entities.entitiesPutWithHttpInfo(APIEntitiesPutRequest.newBuilder().type(type).entityId(id).build());
      show("entity", entity.getStatusCode(), entity.getData().getData().getId());
    }
    PutDocument document = new PutDocument().id(DOC).displayName("Contract").metadata(Map.of("pages", 3));
    ApiResponse<ChangedDocumentReply> made =
        DOCUMENTS.documentsCreateWithHttpInfo(APIDocumentsCreateRequest.newBuilder().putDocument(document).build());
    Map<String, Object> metadata = made.getData().getData().getMetadata();
    show("create", made.getStatusCode(), made.getData().getData().getDisplayName(), metadata.get("pages"));

    String linkId = null;
    LinkRequest deal = new LinkRequest().entityType(LinkRequest.EntityTypeEnum.DEAL).entityId("deal_1").role("signed");
    for (int n = 0; n < 2; n++) {
      ApiResponse<LinkReply> linked =
          LINKS.linksLinkWithHttpInfo(APILinksLinkRequest.newBuilder().id(DOC).linkRequest(deal).build());
      linkId = linked.getData().getData().getLinkId();
      show("link", linked.getStatusCode(), linked.getData().getData().getRole(), header(linked, "ETag"));
    }
    for (String id : List.of("ship_1", "ship_2", "ship_3")) {
      ApiResponse<ResourceLinkReply> linked = linkResource(id);
      String type = linked.getData().getData().getResource().getType();
      show("resource", linked.getStatusCode(), type, linked.getData().getMessage());
    }
    return linkId;
  }

  private static ApiResponse<ResourceLinkReply> linkResource(String id) throws ApiException {
    ResourceLinkRequest request = new ResourceLinkRequest().resourceId(id);
    return LINKS.linksLinkResourceWithHttpInfo(
        APILinksLinkResourceRequest.newBuilder().id(DOC).resourceLinkRequest(request).build());
  }

  private static String ids(ResourceLinkList page) {
    return page.getData().stream().map(each -> each.getResource().getId()).collect(Collectors.joining(" "));
  }

  private static void list() throws ApiException {
    int total = 1;
    for (int page = 1, seen = 0; seen < total; page++) {
      ResourceLinkList listed =
          LINKS.linksListLinks(APILinksListLinksRequest.newBuilder().id(DOC).page(page).limit(3).build());
      seen += listed.getData().size();
      total = listed.getPagination().getTotal();
      show("page", total, ids(listed));
    }
    String cursor = null;
    do {
      ApiResponse<ResourceLinkList> listed =
          LINKS.linksListLinksWithHttpInfo(
              APILinksListLinksRequest.newBuilder().id(DOC).limit(3).cursor(cursor).build());
      show("cursor", ids(listed.getData()));
      cursor = header(listed, "Next-Cursor");
    } while (cursor != null);
  }

  private static void change(String linkId) throws ApiException {
    PutDocument renamed = new PutDocument().displayName("renamed");
    ChangedDocumentReply reply =
        DOCUMENTS.documentsPut(APIDocumentsPutRequest.newBuilder().id(DOC).putDocument(renamed).build());
    show("put", reply.getData().getDisplayName(), reply.getData().getLinkedEntities().size());
    reply = update(new UpdateDocument().category("legal"));
    int count = reply.getData().getLinkedEntities().size();
    show("update", reply.getData().getDisplayName(), reply.getData().getCategory(), count);
    reply = update(new UpdateDocument().resources(new Edits()));
    show("no edits", reply.getData().getLinkedEntities().size());
    EntityItem deal = new EntityItem().entityType(EntityType.DEAL).entityId("deal_2");
    Edits edits = new Edits().addAddItem(new ResourceItem(deal)).addRemoveItem(new ResourceItem("ship_3"));
    reply = update(new UpdateDocument().category(null).resources(edits));
    LinkChanges changes = reply.getChanges();
    show("edits", orNone(reply.getData().getCategory()), changes.getLinked().size(), changes.getUnlinked().size());

    for (String role : Arrays.asList("evidence", null)) {
      RoleRequest request = new RoleRequest().role(role);
      var changed =
          LINKS.linksSetRole(
              APILinksSetRoleRequest.newBuilder().id(DOC).linkId(linkId).roleRequest(request).build());
      show("role", orNone(changed.getData().getRole()));
    }
  }

  private static void remove(String linkId) throws ApiException {
    ApiResponse<UnlinkReply> unlinked =
        LINKS.linksUnlinkWithHttpInfo(APILinksUnlinkRequest.newBuilder().id(DOC).linkId(linkId).build());
    show("unlink", unlinked.getData().getMessage(), header(unlinked, "ETag"));
    APILinksUnlinkResourceRequest shipment =
        APILinksUnlinkResourceRequest.newBuilder().id(DOC).resourceId("ship_2").build();
    show("unlink", LINKS.linksUnlinkResource(shipment).getMessage());
    show("again", linkResource("ship_2").getData().getMessage());

    show("delete", DOCUMENTS.documentsDelete(APIDocumentsDeleteRequest.newBuilder().id(DOC).build()).getData().getId());
    ChangedDocumentReply restored =
        DOCUMENTS.documentsRestore(APIDocumentsRestoreRequest.newBuilder().id(DOC).build());
    show("restore", restored.getData().getLinkedEntities().size());

    Operation known = new Operation().op(Operation.OpEnum.LINK).documentId(DOC).resourceId("ship_3");
    Operation unknown =
        new Operation().op(Operation.OpEnum.LINK).documentId(DOC).entityType(EntityType.DEAL).entityId("deal_9");
    BatchRequest batch = new BatchRequest().operations(List.of(known, unknown));
    for (OperationOutcome outcome :
        LINKS.batchApply(APIBatchApplyRequest.newBuilder().batchRequest(batch).build()).getData()) {
      Problem problem = outcome.getProblem();
      show("batch", outcome.getStatus(), problem == null ? outcome.getLink().getResource().getId() : problem.getCode());
    }
  }

  private static final UpdateDocument ONCE = new UpdateDocument().displayName("once");

  /** Makes conditional calls; returns an entity tag that is not the document's any more. */
  private static String condition() throws ApiException {
    for (int n = 0; n < 2; n++) {
      ApiResponse<ChangedDocumentReply> first = update(ONCE, request -> request.idempotencyKey("key-1"));
      String replayed = header(first, "Idempotent-Replayed");
      show("once", first.getStatusCode(), replayed == null ? "new" : replayed);
    }
    String tag =
        header(DOCUMENTS.documentsReadWithHttpInfo(APIDocumentsReadRequest.newBuilder().id(DOC).build()), "ETag");
    show("match", update(new UpdateDocument().category("a"), request -> request.ifMatch(tag)).getStatusCode());
    return tag;
  }

  private static void refuse(String tag) throws Exception {
    LinkRequest wrong =
        new LinkRequest().entityType(LinkRequest.EntityTypeEnum.DEAL).entityId("deal_1").role("x".repeat(65));
    APIDocumentsReadRequest read = APIDocumentsReadRequest.newBuilder().id(DOC).build();
    refused(() -> LINKS.linksLink(APILinksLinkRequest.newBuilder().id(DOC).linkRequest(wrong).build()));
    refused(() -> documents("wbk_unknown").documentsRead(read));
    DocumentsApi reader = documents(System.getenv("READ_KEY"));
    refused(() -> reader.documentsDelete(APIDocumentsDeleteRequest.newBuilder().id(DOC).build()));
    refused(() -> DOCUMENTS.documentsRead(APIDocumentsReadRequest.newBuilder().id("doc_9").build()));
    PutDocument taken = new PutDocument().id(DOC);
    refused(() -> DOCUMENTS.documentsCreate(APIDocumentsCreateRequest.newBuilder().putDocument(taken).build()));
    refused(() -> update(ONCE, request -> request.ifMatch(tag)));
    refused(() -> update(new UpdateDocument().metadata(Map.of("text", "x".repeat(1_100_000)))));
    refused(() -> update(new UpdateDocument(), request -> request.idempotencyKey("key-1")));

    DocumentsApi slow = documents(System.getenv("SLOW_KEY"));
    slow.documentsRead(read);
    var headers = refused(() -> slow.documentsRead(read)).getResponseHeaders();
    long wait = headers.firstValueAsLong("Retry-After").orElseThrow();
    String limit = headers.firstValue("X-RateLimit-Limit").orElseThrow();
    String left = headers.firstValue("X-RateLimit-Remaining").orElseThrow();
    boolean resets = headers.firstValueAsLong("X-RateLimit-Reset").orElseThrow() * 1000 > System.currentTimeMillis();
    String policy = headers.firstValue("RateLimit-Policy").orElseThrow();
    String rate = headers.firstValue("RateLimit").orElseThrow().replace("t=" + wait, "t=wait");
    show("limit", limit, left, resets ? "reset" : "past", policy, rate, wait > 0 && wait <= 86400 ? "wait" : wait);
  }
}
