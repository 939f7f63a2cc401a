// Drives Segment's SDK for Node, or RudderStack's: `node trackers.js segment|rudderstack`. See tests/sdks/__init__.py.
"use strict";

const readline = require("node:readline");

const MAKE = {
  segment({ url, key, options }) {
    const { Analytics } = require("@segment/analytics-node");
    const client = new Analytics({ writeKey: key, host: url, ...options });
    return { client, flush: () => client.closeAndFlush() };
  },
  rudderstack({ url, key, options }) {
    const RudderAnalytics = require("@rudderstack/rudder-sdk-node");
    // Without an error handler, a refusal ends the process. The callbacks of the messages have more details.
    const client = new RudderAnalytics(key, { dataPlaneUrl: url, errorHandler: () => {}, logLevel: "none", ...options });
    return { client, flush: () => client.flush() };
  },
};

async function main(sdk) {
  const clients = {};
  const told = {};
  let underWay = 0;

  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { client: name, call, message, ...made } = JSON.parse(line);
    if (made.url) {
      clients[name] = MAKE[sdk](made);
      told[name] = {};
      continue;
    }
    underWay += 1;
    clients[name].client[call]({ ...message, timestamp: new Date(message.timestamp) }, (error) => {
      underWay -= 1;
      if (error) told[name][message.context.call] = String(error.message ?? error.reason ?? error);
    });
  }
  for (const { flush } of Object.values(clients)) flush();
  // RudderStack's flush sends at most 20 messages, and does not wait for those in flight.
  while (underWay > 0) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    if (sdk === "rudderstack") for (const { flush } of Object.values(clients)) flush();
  }
  process.stdout.write(JSON.stringify(told));
}

main(process.argv[2]);
