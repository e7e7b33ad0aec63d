// Reads the events on standard input, one a line, with the types that json-schema-to-typescript has made.
import { createInterface } from "node:readline";
import type { DocumentLinked } from "./document.linked.js";
import type { DocumentLinkUpdated } from "./document.link_updated.js";
import type { DocumentRestored } from "./document.restored.js";
import type { DocumentUnlinked } from "./document.unlinked.js";
import type { SnapshotBegan } from "./snapshot.began.js";
import type { SnapshotEnded } from "./snapshot.ended.js";

type Event = DocumentLinked | DocumentUnlinked | DocumentRestored | DocumentLinkUpdated | SnapshotBegan | SnapshotEnded;

for await (const line of createInterface(process.stdin)) {
  const event = JSON.parse(line) as Event;
  switch (event.type) {
    case "snapshot.began":
      console.log(event.type, event.data.partition, ...Object.keys(event.data.continue_from));
      break;
    case "snapshot.ended":
      console.log(event.type, event.data.partition, event.data.links);
      break;
    case "document.linked":
    case "document.unlinked":
    case "document.restored":
    case "document.link_updated": {
      const { document_version, link, previous } = event.data;
      const was = previous ? previous.role : null;
      console.log(event.type, document_version, link.resource.id, link.role ?? "None", "was", was ?? "None");
      break;
    }
    default:
      throw new Error(`unknown type: ${JSON.stringify(event satisfies never)}`);
  }
}
