// Asks the gateway whose a token is, on a connection of its own: only the server knows how to read it.

import { accountOf } from "./account.js";
import { WELCOME_TIMEOUT_MS } from "./bounds.js";
import { sentence } from "./text.js";

export const UNREACHABLE = "The server cannot be reached now. Try again.";

/** `{account}`, or `{problem}` in words. Never rejects. */
export function identify(url, token) {
  return new Promise((resolve) => {
    let socket;
    const end = (answer) => {
      clearTimeout(timer);
      resolve(answer);
      if (socket === undefined) return;
      socket.onmessage = socket.onclose = null;
      socket.close();
    };
    const timer = setTimeout(() => end({ problem: UNREACHABLE }), WELCOME_TIMEOUT_MS);
    try {
      socket = new WebSocket(url);
    } catch {
      end({ problem: UNREACHABLE });
      return;
    }
    socket.onopen = () => socket.send(JSON.stringify({ op: "hello", token }));
    socket.onclose = ({ reason }) => end({ problem: reason === "" ? UNREACHABLE : sentence(reason) });
    socket.onmessage = ({ data }) => {
      const [answer] = [JSON.parse(data)].flat();
      if (answer.op === "welcome") end({ account: accountOf(token, answer) });
      else end({ problem: sentence(answer.message ?? "The server does not accept this token") });
    };
  });
}
