// Parses the AsyncAPI document on standard input; prints every diagnostic, and fails if there is one.
import { text } from "node:stream/consumers";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(await text(process.stdin));
for (const { code, path, message } of diagnostics) {
  console.log(`${code} at ${path.join(".")}: ${message}`);
}
console.log(`${document?.allMessages().length ?? 0} messages`);
process.exitCode = diagnostics.length === 0 ? 0 : 1;
