"use strict";

/**
 * Runs operations over WebSockets (graphql-transport-ws), a socket for each: what GraphiQL takes as `wsClient`.
 *
 * payload: that of the first message. closed: told the code of a socket that the service closed. A socket that is
 * gone is not opened again, since changes would be missed in silence; it is an error of the operation.
 */
function graphqlSocket(url, payload, closed) {
  return {
    subscribe(request, sink) {
      const socket = new WebSocket(url, "graphql-transport-ws");
      const say = (message) => socket.send(JSON.stringify(message));
      let over = false;
      const end = (errors) => {
        if (over) return;
        over = true;
        socket.close(1000);
        // As a last result: what is given to `sink.error` GraphiQL shows, but leaves as a rejection that nobody handles.
        if (errors) sink.next({ errors });
        sink.complete();
      };
      socket.onopen = () => say({ type: "connection_init", payload });
      socket.onmessage = (message) => {
        const { type, payload: found } = JSON.parse(message.data);
        if (type === "connection_ack") say({ id: "1", type: "subscribe", payload: request });
        else if (type === "ping") say({ type: "pong" });
        else if (type === "next") sink.next(found);
        else if (type === "error") end(found);
        else if (type === "complete") end();
      };
      socket.onclose = ({ code, reason }) => {
        if (!over) closed(code);
        end([{ message: `the service closed the socket (${code})`, extensions: { code: reason || "closed" } }]);
      };
      return () => end();
    },
  };
}
