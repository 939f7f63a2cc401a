// The demo shop: each action of a visitor becomes an event, through the same snippet that any page can use.

import { byId, line, make } from "./dom.js";

const GOODS = [
  ["tea-1", "Green tea", 7.5, "#2e8b57"],
  ["tea-2", "Black tea", 6.9, "#8b4513"],
  ["tea-3", "Rooibos tea", 8.2, "#b5432e"],
  ["cup-1", "Small cup", 12, "#33689a"],
  ["cup-2", "Large cup", 15.5, "#5b4a9e"],
  ["pot-1", "Teapot", 39, "#0b6e6e"],
].map(([product_id, name, price, colour]) => ({ product_id, name, price, colour }));
const SVG = "http://www.w3.org/2000/svg";
const pulse = (window.pulse = window.pulse || []);
const cart = new Map();
const money = (amount) => `€ ${amount.toFixed(2)}`;

function tell(what, ...call) {
  if (call.length) pulse.push(call);
  byId("sent").prepend(make("li", {}, line(what)));
}

function picture(colour) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 60");
  svg.setAttribute("aria-hidden", "true");
  for (const [d, attributes] of [
    ["M26 20h40v16a16 16 0 0 1-16 16h-8a16 16 0 0 1-16-16z", { fill: colour }],
    ["M66 25h6a7 7 0 0 1 0 14h-7", { fill: "none", stroke: colour, "stroke-width": 4 }],
    ["M36 14q4-4 0-9M48 14q4-4 0-9", { fill: "none", stroke: colour, "stroke-width": 2, opacity: 0.6 }],
  ]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    for (const [name, value] of Object.entries(attributes)) path.setAttribute(name, value);
    svg.append(path);
  }
  return svg;
}

function showGoods(wanted = "") {
  const found = GOODS.filter((product) => product.name.toLowerCase().includes(wanted.toLowerCase()));
  byId("goods").replaceChildren(
    ...found.map((product) => {
      const add = make("button", { type: "button", on: { click: () => put(product) } }, "Put into the cart");
      return make("li", {}, picture(product.colour), make("h3", {}, product.name), make("span", { class: "faint" }, money(product.price)), add);
    })
  );
  byId("found").textContent = wanted ? `${found.length} found` : "";
  return found.length;
}

const plain = ({ product_id, name, price }) => ({ product_id, name, price });

function put(product) {
  cart.set(product, (cart.get(product) ?? 0) + 1);
  showCart();
  tell(`Product Added: ${product.name}`, "track", "Product Added", { ...plain(product), quantity: 1 });
}

function showCart() {
  const lines = [...cart].map(([product, quantity]) => make("li", {}, `${quantity} × ${product.name}`));
  byId("cart").replaceChildren(...lines);
  const total = [...cart].reduce((sum, [product, quantity]) => sum + product.price * quantity, 0);
  byId("sum").textContent = cart.size ? money(total) : "";
  byId("buy").disabled = cart.size === 0;
  return total;
}

byId("buy").addEventListener("click", () => {
  const total = Math.round(showCart() * 100) / 100;
  const products = [...cart].map(([product, quantity]) => ({ ...plain(product), quantity }));
  cart.clear();
  showCart();
  tell(`Order Completed: ${money(total)}`, "track", "Order Completed", { order_id: `order-${Date.now()}`, total, currency: "EUR", products });
});
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = byId("q").value.trim();
  const results = showGoods(query);
  if (query) tell(`Products Searched: ${query}`, "track", "Products Searched", { query, results });
});
byId("who").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("name").value.trim();
  if (name) tell(`identify: ${name}`, "identify", name, { name });
});
byId("mistake").addEventListener("click", () => tell("an event without a name, which is refused", "track", ""));
tell("Page viewed");
showGoods();
setTimeout(() => {
  if (!pulse.loaded) byId("sent").prepend(make("li", {}, "The API's /pulse.js was not loaded: is the API running, and does nothing block it? Nothing was sent yet."));
}, 4000);
