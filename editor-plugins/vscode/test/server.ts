import { once } from "node:events";
import { type IncomingMessage, type RequestListener, type Server, createServer } from "node:http";
import type { AddressInfo } from "node:net";

/** A real HTTP server on a free port of this machine, closed when the test ends. */
export async function serve(
  test: { after(cleanUp: () => Promise<void>): void },
  listener: RequestListener,
  port = 0,
): Promise<{ server: Server; url: string; port: number }> {
  const server = createServer(listener).listen(port, "127.0.0.1");
  await once(server, "listening");
  test.after(async () => {
    if (!server.listening) return;
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });
  const address = server.address() as AddressInfo;
  return { server, url: `http://127.0.0.1:${address.port}`, port: address.port };
}

/** The address of a port that was free a moment ago. */
export async function deadPort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

export async function bodyOf(request: IncomingMessage): Promise<unknown> {
  let text = "";
  for await (const part of request) text += String(part);
  return JSON.parse(text);
}
