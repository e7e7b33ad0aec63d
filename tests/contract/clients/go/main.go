// The main job with the client that oapi-codegen has generated as the package links.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/oapi-codegen/nullable"

	"main/links"
)

const doc = "doc_1"

var ctx = context.Background()

func client(key string) *links.ClientWithResponses {
	authorize := func(_ context.Context, request *http.Request) error {
		request.Header.Set("X-API-KEY", key)
		return nil
	}
	return ok(links.NewClientWithResponses(os.Getenv("URL"), links.WithRequestEditorFn(authorize)))
}

func ok[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// body returns the body of a success, of which there are one or two kinds.
func body[T any](answer []byte, bodies ...*T) *T {
	for _, each := range bodies {
		if each != nil {
			return each
		}
	}
	log.Fatal(string(answer))
	return nil
}

// refused shows the status and the code of a problem, with all wrong fields.
func refused(status int, problem *links.Problem) {
	if problem == nil {
		log.Fatalf("%d is another answer", status)
	}
	words := []string{strconv.Itoa(status), problem.Code}
	if problem.Errors != nil {
		for _, each := range *problem.Errors {
			words = append(words, each.Field)
		}
	}
	fmt.Println("refused", strings.Join(words, " "))
}

func text(value nullable.Nullable[string]) string {
	if value.IsNull() {
		return "none"
	}
	return value.MustGet()
}

func ids(data []links.ResourceLink) string {
	var found []string
	for _, each := range data {
		found = append(found, each.Resource.Id)
	}
	return strings.Join(found, " ")
}

func pointer[T any](value T) *T { return &value }

func update(api *links.ClientWithResponses, change links.UpdateDocument, params links.DocumentsUpdateParams) *links.DocumentsUpdateResponse {
	return ok(api.DocumentsUpdateWithResponse(ctx, doc, &params, change))
}

func changed(api *links.ClientWithResponses, change links.UpdateDocument) *links.ChangedDocumentReply {
	answer := update(api, change, links.DocumentsUpdateParams{})
	return body(answer.Body, answer.JSON200)
}

func main() {
	api := client(os.Getenv("KEY"))
	linkID := makeLinks(api)
	list(api)
	change(api, linkID)
	remove(api, linkID)
	refuse(api, condition(api))
}

func makeLinks(api *links.ClientWithResponses) (linkID string) {
	for _, each := range [][2]string{{"deal", "deal_1"}, {"deal", "deal_2"}, {"shipment", "ship_1"}, {"shipment", "ship_2"}, {"shipment", "ship_3"}} {
		entity := ok(api.EntitiesPutWithResponse(ctx, links.EntityType(each[0]), each[1], nil))
		fmt.Println("entity", entity.StatusCode(), body(entity.Body, entity.JSON201).Data.Id)
	}
	document := links.PutDocument{
		Id:          pointer(doc),
		DisplayName: nullable.NewNullableWithValue("Contract"),
		Metadata:    nullable.NewNullableWithValue(links.Metadata{"pages": 3}),
	}
	made := ok(api.DocumentsCreateWithResponse(ctx, nil, document))
	data := body(made.Body, made.JSON201).Data
	fmt.Println("create", made.StatusCode(), text(data.DisplayName), data.Metadata.MustGet()["pages"])

	for range 2 {
		asked := links.LinkRequest{EntityType: "deal", EntityId: "deal_1", Role: nullable.NewNullableWithValue("signed")}
		linked := ok(api.LinksLinkWithResponse(ctx, doc, nil, asked))
		link := body(linked.Body, linked.JSON200, linked.JSON201).Data
		linkID = link.LinkId
		fmt.Println("link", linked.StatusCode(), text(link.Role), linked.HTTPResponse.Header.Get("ETag"))
	}
	for _, id := range []string{"ship_1", "ship_2", "ship_3"} {
		linked := ok(api.LinksLinkResourceWithResponse(ctx, doc, nil, links.ResourceLinkRequest{ResourceId: id}))
		reply := body(linked.Body, linked.JSON200, linked.JSON201)
		fmt.Println("resource", linked.StatusCode(), reply.Data.Resource.Type, reply.Message)
	}
	return linkID
}

func list(api *links.ClientWithResponses) {
	for page, seen, total := 1, 0, 1; seen < total; page++ {
		listed := ok(api.LinksListLinksWithResponse(ctx, doc, &links.LinksListLinksParams{Page: pointer(page), Limit: pointer(3)}))
		found := body(listed.Body, listed.JSON200)
		seen, total = seen+len(found.Data), found.Pagination.Total
		fmt.Println("page", found.Pagination.Total, ids(found.Data))
	}
	params := links.LinksListLinksParams{Limit: pointer(3)}
	for more := true; more; {
		listed := ok(api.LinksListLinksWithResponse(ctx, doc, &params))
		fmt.Println("cursor", ids(body(listed.Body, listed.JSON200).Data))
		cursor := listed.HTTPResponse.Header.Get("Next-Cursor")
		params.Cursor, more = &cursor, cursor != ""
	}
}

func change(api *links.ClientWithResponses, linkID string) {
	put := ok(api.DocumentsPutWithResponse(ctx, doc, nil, links.PutDocument{DisplayName: nullable.NewNullableWithValue("renamed")}))
	data := body(put.Body, put.JSON200).Data
	fmt.Println("put", text(data.DisplayName), len(data.LinkedEntities))
	data = changed(api, links.UpdateDocument{Category: nullable.NewNullableWithValue("legal")}).Data
	fmt.Println("update", text(data.DisplayName), text(data.Category), len(data.LinkedEntities))
	data = changed(api, links.UpdateDocument{Resources: nullable.NewNullableWithValue(links.Edits{})}).Data
	fmt.Println("no edits", len(data.LinkedEntities))

	var deal, shipment links.ResourceItem
	if deal.FromEntityItem(links.EntityItem{EntityType: "deal", EntityId: "deal_2"}) != nil || shipment.FromResourceItem0("ship_3") != nil {
		log.Fatal("an item cannot be encoded")
	}
	edits := links.Edits{
		Add:    nullable.NewNullableWithValue([]links.ResourceItem{deal}),
		Remove: nullable.NewNullableWithValue([]links.ResourceItem{shipment}),
	}
	edited := changed(api, links.UpdateDocument{Category: nullable.NewNullNullable[string](), Resources: nullable.NewNullableWithValue(edits)})
	fmt.Println("edits", text(edited.Data.Category), len(edited.Changes.Linked), len(edited.Changes.Unlinked))

	for _, role := range []nullable.Nullable[string]{nullable.NewNullableWithValue("evidence"), nullable.NewNullNullable[string]()} {
		set := ok(api.LinksSetRoleWithResponse(ctx, doc, linkID, nil, links.RoleRequest{Role: role}))
		fmt.Println("role", text(body(set.Body, set.JSON200).Data.Role))
	}
}

func remove(api *links.ClientWithResponses, linkID string) {
	unlinked := ok(api.LinksUnlinkWithResponse(ctx, doc, linkID, nil))
	fmt.Println("unlink", body(unlinked.Body, unlinked.JSON200).Message, unlinked.HTTPResponse.Header.Get("ETag"))
	other := ok(api.LinksUnlinkResourceWithResponse(ctx, doc, &links.LinksUnlinkResourceParams{ResourceId: "ship_2"}))
	fmt.Println("unlink", body(other.Body, other.JSON200).Message)
	again := ok(api.LinksLinkResourceWithResponse(ctx, doc, nil, links.ResourceLinkRequest{ResourceId: "ship_2"}))
	fmt.Println("again", body(again.Body, again.JSON200).Message)

	deleted := ok(api.DocumentsDeleteWithResponse(ctx, doc, nil))
	fmt.Println("delete", body(deleted.Body, deleted.JSON200).Data.Id)
	restored := ok(api.DocumentsRestoreWithResponse(ctx, doc, nil))
	fmt.Println("restore", len(body(restored.Body, restored.JSON200).Data.LinkedEntities))

	batch := ok(api.BatchApplyWithResponse(ctx, nil, links.BatchRequest{Operations: []links.Operation{
		{Op: links.OperationOpLink, DocumentId: doc, ResourceId: nullable.NewNullableWithValue("ship_3")},
		{Op: links.OperationOpLink, DocumentId: doc, EntityType: nullable.NewNullableWithValue(links.EntityType("deal")), EntityId: nullable.NewNullableWithValue("deal_9")},
	}}))
	for _, outcome := range body(batch.Body, batch.JSON200).Data {
		if outcome.Problem != nil {
			fmt.Println("batch", outcome.Status, outcome.Problem.Code)
		} else {
			fmt.Println("batch", outcome.Status, outcome.Link.Resource.Id)
		}
	}
}

var once = links.UpdateDocument{DisplayName: nullable.NewNullableWithValue("once")}

// condition makes conditional calls, and returns an entity tag that is not the document's any more.
func condition(api *links.ClientWithResponses) string {
	for range 2 {
		first := update(api, once, links.DocumentsUpdateParams{IdempotencyKey: pointer("key-1")})
		replayed := first.HTTPResponse.Header.Get("Idempotent-Replayed")
		if replayed == "" {
			replayed = "new"
		}
		fmt.Println("once", first.StatusCode(), replayed)
	}
	tag := ok(api.DocumentsReadWithResponse(ctx, doc, nil)).HTTPResponse.Header.Get("ETag")
	matched := update(api, links.UpdateDocument{Category: nullable.NewNullableWithValue("a")}, links.DocumentsUpdateParams{IfMatch: &tag})
	fmt.Println("match", matched.StatusCode())
	return tag
}

func refuse(api *links.ClientWithResponses, tag string) {
	long := links.LinkRequest{EntityType: "deal", EntityId: "deal_1", Role: nullable.NewNullableWithValue(strings.Repeat("x", 65))}
	wrong := ok(api.LinksLinkWithResponse(ctx, doc, nil, long))
	refused(wrong.StatusCode(), wrong.ApplicationproblemJSON400)
	unknown := ok(client("wbk_unknown").DocumentsReadWithResponse(ctx, doc, nil))
	refused(unknown.StatusCode(), unknown.ApplicationproblemJSON401)
	reader := ok(client(os.Getenv("READ_KEY")).DocumentsDeleteWithResponse(ctx, doc, nil))
	refused(reader.StatusCode(), reader.ApplicationproblemJSON403)
	missing := ok(api.DocumentsReadWithResponse(ctx, "doc_9", nil))
	refused(missing.StatusCode(), missing.ApplicationproblemJSON404)
	taken := ok(api.DocumentsCreateWithResponse(ctx, nil, links.PutDocument{Id: pointer(doc)}))
	refused(taken.StatusCode(), taken.ApplicationproblemJSON409)
	stale := update(api, once, links.DocumentsUpdateParams{IfMatch: &tag})
	refused(stale.StatusCode(), stale.ApplicationproblemJSON412)
	metadata := nullable.NewNullableWithValue(links.Metadata{"text": strings.Repeat("x", 1_100_000)})
	large := update(api, links.UpdateDocument{Metadata: metadata}, links.DocumentsUpdateParams{})
	refused(large.StatusCode(), large.ApplicationproblemJSON413)
	other := update(api, links.UpdateDocument{}, links.DocumentsUpdateParams{IdempotencyKey: pointer("key-1")})
	refused(other.StatusCode(), other.ApplicationproblemJSON422)

	slow := client(os.Getenv("SLOW_KEY"))
	ok(slow.DocumentsReadWithResponse(ctx, doc, nil))
	limited := ok(slow.DocumentsReadWithResponse(ctx, doc, nil))
	refused(limited.StatusCode(), limited.ApplicationproblemJSON429)
	quota(limited.HTTPResponse.Header)
}

func quota(header http.Header) {
	retry := header.Get("Retry-After")
	wait, reset := ok(strconv.Atoi(retry)), ok(strconv.ParseInt(header.Get("X-RateLimit-Reset"), 10, 64))
	if wait <= 0 || wait > 86400 || reset <= time.Now().Unix() {
		log.Fatal(header)
	}
	rate := strings.Replace(header.Get("RateLimit"), "t="+retry, "t=wait", 1)
	fmt.Println("limit", header.Get("X-RateLimit-Limit"), header.Get("X-RateLimit-Remaining"), "reset", header.Get("RateLimit-Policy"), rate, "wait")
}
