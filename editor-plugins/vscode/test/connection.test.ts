import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { OfflineError, ServerError } from "../src/client";
import { Connection, type State } from "../src/connection";
import { deadPort, serve } from "./server";

/** A connection that notes each state it passes through. */
function watch(url: string): { connection: Connection; states: State[]; reached(state: State): Promise<void> } {
  const states: State[] = [];
  const waiting: { state: State; done: () => void }[] = [];
  const connection = new Connection(
    url,
    () => {
      if (states.at(-1) !== connection.state) states.push(connection.state);
      for (const { state, done } of waiting) if (state === connection.state) done();
    },
    () => {},
  );
  const reached = (state: State) => new Promise<void>((done) => waiting.push({ state, done }));
  return { connection, states, reached };
}

const noItems = () => Promise.resolve({ items: [], model: "nano" });

test("a server that is there is ready, works, and is ready again", async (t) => {
  const { url } = await serve(t, (_, response) => response.end('{"model": "nano"}'));
  const { connection, states } = watch(url);
  assert.equal(connection.state, "working");
  await connection.look();
  await connection.run(noItems);
  assert.deepEqual(states, ["ready", "working", "ready"]);
  assert.equal(connection.model, "nano");
});

test("a server that comes later is found without being asked for a completion", async (t) => {
  const port = await deadPort();
  const { connection, states, reached } = watch(`http://127.0.0.1:${port}`);
  t.after(() => connection.dispose());
  await connection.look();
  assert.match(connection.problem ?? "", /ECONNREFUSED/);
  const ready = reached("ready");
  await serve(t, (_, response) => response.end('{"model": "nano"}'), port);
  await ready;
  assert.deepEqual(states, ["offline", "ready"]);
});

test("a server that goes away is noticed at the next completion, and one that answers is back", async (t) => {
  const { server, url } = await serve(t, (_, response) => response.end('{"model": "nano"}'));
  const { connection } = watch(url);
  t.after(() => connection.dispose());
  await connection.look();
  server.closeAllConnections();
  server.close();
  await once(server, "close");
  await assert.rejects(connection.run((client) => client.complete({} as never, new AbortController().signal)), OfflineError);
  assert.equal(connection.state, "offline");
  await connection.run(noItems);
  assert.equal(connection.state, "ready");
});

test("one wrong answer does not make the server offline", async (t) => {
  const { url } = await serve(t, (_, response) => response.end('{"model": "nano"}'));
  const { connection } = watch(url);
  await connection.look();
  await assert.rejects(connection.run(() => Promise.reject(new ServerError(500, "HTTP 500"))), ServerError);
  assert.equal(connection.state, "ready");
});

test("a new address forgets the old server", async (t) => {
  const old = await serve(t, (_, response) => response.end('{"model": "old"}'));
  const next = await serve(t, (_, response) => response.end('{"model": "next"}'));
  const { connection, reached } = watch(old.url);
  await connection.look();
  const ready = reached("ready");
  connection.connect(next.url);
  assert.equal(connection.model, undefined);
  await ready;
  assert.equal(connection.model, "next");
});

test("reading ahead is silent where no server is, and tries only one that is there", async (t) => {
  let asked = 0;
  const port = await deadPort();
  const lines: string[] = [];
  const connection = new Connection(`http://127.0.0.1:${port}`, () => {}, (line) => lines.push(line));
  t.after(() => connection.dispose());
  await connection.warm({} as never);
  assert.deepEqual([lines, connection.state], [[], "working"]);
  await connection.look();
  const told = lines.length;
  const { url } = await serve(t, (incoming, response) => {
    asked += Number(incoming.url === "/v1/warm");
    response.writeHead(incoming.url === "/v1/warm" ? 500 : 200).end('{"model": "nano"}');
  });
  await connection.warm({} as never);
  assert.deepEqual([lines.length, asked], [told, 0]);
  connection.connect(url);
  await connection.look();
  await connection.warm({} as never);
  assert.equal(asked, 1);
  assert.match(lines.at(-1) ?? "", /HTTP 500/);
  assert.equal(connection.state, "ready");
});
