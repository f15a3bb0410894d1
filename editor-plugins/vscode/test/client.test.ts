import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Client, OfflineError, ServerError, SupersededError } from "../src/client";
import { type CompletionRequest, TriggerKind } from "../src/protocol";
import { bodyOf, deadPort, serve } from "./server";

const request: CompletionRequest = {
  textDocument: { uri: "file:///w/ä.py", languageId: "python", version: 3, text: "x = '🙂'\r\n" },
  position: { line: 0, character: 8 },
  context: { triggerKind: TriggerKind.automatic },
  codelm: { client: "vscode-1", budgetMs: 300 },
};
const patient = new AbortController().signal;

test("a completion is one POST of the LSP parameters, text included", async (t) => {
  const seen: unknown[] = [];
  const { url } = await serve(t, async (incoming, response) => {
    seen.push([incoming.method, incoming.url, incoming.headers["content-type"], await bodyOf(incoming)]);
    response.end(JSON.stringify({ items: [{ insertText: "y" }], codelm: { model: "nano" } }));
  });
  const answer = await new Client(url + "/").complete(request, patient);
  assert.deepEqual(answer, { items: [{ insertText: "y" }], model: "nano" });
  assert.deepEqual(seen, [["POST", "/v1/textDocument/inlineCompletion", "application/json", request]]);
});

test("aborting closes the connection, which is how the server learns of it", async (t) => {
  const { server, url } = await serve(t, () => {});
  const cancelled = new AbortController();
  const answer = new Client(url).complete(request, cancelled.signal);
  const [, response] = await once(server, "request");
  cancelled.abort();
  await assert.rejects(answer, { name: "AbortError" });
  await once(response, "close");
});

test("an error of the server is told with its status and text", async (t) => {
  const { url } = await serve(t, (_, response) => {
    response.writeHead(422).end('{"detail":"line 9 of 1"}');
  });
  await assert.rejects(new Client(url).complete(request, patient), (error: unknown) => {
    assert(error instanceof ServerError);
    assert.equal(error.status, 422);
    assert.match(error.message, /HTTP 422.*line 9 of 1/);
    return true;
  });
});

test("being superseded is no error of the server", async (t) => {
  const { url } = await serve(t, (_, response) => response.writeHead(409).end("{}"));
  await assert.rejects(new Client(url).complete(request, patient), SupersededError);
});

for (const body of ["<html>", '{"items": 1}', "[]"]) {
  test(`the answer ${body} is an error of the server`, async (t) => {
    const { url } = await serve(t, (_, response) => response.end(body));
    await assert.rejects(new Client(url).complete(request, patient), ServerError);
  });
}

test("nobody there is another error, which names the cause", async () => {
  const port = await deadPort();
  await assert.rejects(new Client(`http://127.0.0.1:${port}`).complete(request, patient), (error: unknown) => {
    assert(error instanceof OfflineError);
    assert.match(error.message, /ECONNREFUSED/);
    return true;
  });
});

test("an address that is none is the same error", async () => {
  await assert.rejects(new Client("my server").model(), OfflineError);
});

test("health gives the model's name, and only a codelm server has one", async (t) => {
  const { url } = await serve(t, (incoming, response) => {
    assert.equal(incoming.url, "/v1/health");
    response.end('{"status": "ok", "model": "nano"}');
  });
  assert.equal(await new Client(url).model(), "nano");
  const other = await serve(t, (_, response) => response.end('{"status": "ok"}'));
  await assert.rejects(new Client(other.url).model(), /no codelm server/);
});

test("that a suggestion was taken is told by its id", async (t) => {
  const seen: unknown[] = [];
  const { url } = await serve(t, async (incoming, response) => {
    seen.push([incoming.method, incoming.url, await bodyOf(incoming)]);
    response.writeHead(202).end("{}");
  });
  await new Client(url).accepted("cmpl-1");
  assert.deepEqual(seen, [["POST", "/v1/accepted", { id: "cmpl-1" }]]);
});

test("reading ahead is one POST of what a completion would ask", async (t) => {
  const seen: unknown[] = [];
  const { url } = await serve(t, async (incoming, response) => {
    seen.push([incoming.method, incoming.url, await bodyOf(incoming)]);
    response.writeHead(202).end("{}");
  });
  await new Client(url).warm(request);
  assert.deepEqual(seen, [["POST", "/v1/warm", request]]);
});
