"""Shoppers of an outdoor store, as events: three with a story of their own, and as many made-up ones as asked for."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from common.events import format_timestamp
from loadtest.client import Event

Properties = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class Product:
    sku: str
    name: str
    category: str
    cents: int

    @property
    def properties(self) -> Properties:
        return {"sku": self.sku, "product": self.name, "category": self.category, "price": self.cents / 100}


@dataclass(frozen=True)
class Device:
    kind: str
    user_agent: str


STORM, BREEZE, TENT, STOVE, BEANS, SOCKS, LAMP, BOOTS = PRODUCTS = (
    Product("JK-210", "Storm 3 rain jacket", "jackets", 18_990),
    Product("JK-115", "Breeze rain jacket", "jackets", 8_950),
    Product("TN-302", "Ridge tent for two", "tents", 34_900),
    Product("ST-040", "Pocket gas stove", "cooking", 4_995),
    Product("CF-001", "Camp coffee, 500 g", "cooking", 1_290),
    Product("SO-017", "Merino socks", "clothing", 1_850),
    Product("LP-008", "Head lamp 400 lm", "light", 3_999),
    Product("BT-051", "Trail boots", "shoes", 14_900),
)
DESKTOP, TABLET, MOBILE = DEVICES = (
    Device("desktop", "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0"),
    Device("tablet", "Mozilla/5.0 (iPad; CPU OS 18_6 like Mac OS X) AppleWebKit/605.1.15 Version/18.6 Safari/605.1.15"),
    Device("mobile", "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 Chrome/140.0.0.0 Mobile Safari/537.36"),
)


@dataclass
class Visit:
    """One customer's session: each method is something they do, after a while of thinking, and notes its event."""

    customer_id: str
    device: Device
    session_id: str
    rng: random.Random
    cart: list[Product] = field(default_factory=list)
    seconds: float = 0.0
    steps: list[tuple[float, str, Properties]] = field(default_factory=list)

    def do(self, event_type: str, properties: Properties) -> None:
        if self.steps:
            self.seconds += self.rng.uniform(4, 75)
        self.steps.append((self.seconds, event_type, properties))

    def open(self, page: str) -> None:
        self.do("page_view", {"page": page})

    def look_at(self, product: Product) -> None:
        self.do("page_view", {"page": "product", **product.properties})

    def search(self, query: str) -> None:
        self.do("search", {"query": query, "results": self.rng.randint(2, 40)})

    def click(self, element: str, product: Product) -> None:
        self.do("click", {"element": element, **product.properties})

    def add_to_cart(self, product: Product) -> None:
        self.cart.append(product)
        self.do("add_to_cart", {**product.properties, "quantity": 1})

    def buy(self) -> None:
        total = sum(product.cents for product in self.cart) / 100
        order = f"order-{self.session_id}"
        self.do("purchase", {"total": total, "currency": "EUR", "items": len(self.cart), "order_id": order})

    def events(self, end: datetime) -> list[Event]:
        """The events so far, the last of them at `end` (UTC)."""
        context = {
            "device": self.device.kind,
            "session_id": self.session_id,
            "ip": f"203.0.113.{self.rng.randint(1, 254)}",  # a network reserved for documentation
            "user_agent": self.device.user_agent,
        }
        return [
            {
                "event_id": f"{self.session_id}-{number:02}",
                "customer_id": self.customer_id,
                "event_type": event_type,
                "timestamp": format_timestamp(end - timedelta(seconds=self.seconds - seconds)),
                "properties": properties,
                "context": context,
            }
            for number, (seconds, event_type, properties) in enumerate(self.steps, start=1)
        ]


def named_journeys(run: str, now: datetime, rng: random.Random) -> Iterator[list[Event]]:
    """Alice, Ben and Chloe: 20 events in all, a list for each, ending at `now`. `run` begins every id made here."""
    for customer, device, journey in (("alice", DESKTOP, _alice), ("ben", TABLET, _ben), ("chloe", MOBILE, _chloe)):
        visit = Visit(customer, device, f"{run}-{customer}", rng)
        journey(visit)
        yield visit.events(now)


def generated_journeys(count: int, run: str, now: datetime, rng: random.Random) -> Iterator[list[Event]]:
    """`count` shoppers by chance: a list of events for each, ending within the ten minutes before `now`."""
    for number in range(1, count + 1):
        end = now - timedelta(seconds=rng.uniform(0, 600))
        yield generated_journey(f"customer-{number:05}", run, end, rng)


def generated_journey(customer: str, run: str, end: datetime, rng: random.Random) -> list[Event]:
    """What one shopper does by chance, the last of it at `end` (UTC)."""
    visit = Visit(customer, rng.choice(DEVICES), f"{run}-{customer}", rng)
    _by_chance(visit)
    return visit.events(end)


def _alice(visit: Visit) -> None:
    """Takes her time: searches, compares two jackets, and buys the better one."""
    visit.open("home")
    visit.search("rain jacket")
    visit.look_at(STORM)
    visit.look_at(BREEZE)
    visit.click("compare", STORM)
    visit.add_to_cart(STORM)
    visit.add_to_cart(SOCKS)
    visit.open("checkout")
    visit.buy()


def _ben(visit: Visit) -> None:
    """Falls for a tent, and leaves it in the cart when his coupon fails."""
    visit.open("summer-sale")
    visit.look_at(TENT)
    visit.click("photos", TENT)
    visit.add_to_cart(TENT)
    visit.open("cart")
    visit.do("custom", {"name": "coupon_rejected", "coupon": "SUMMER25", "expired": True})


def _chloe(visit: Visit) -> None:
    """Knows what she wants: orders her usual coffee again, on the phone."""
    visit.do("custom", {"name": "login", "returning": True, "orders": 7})
    visit.click("buy_again", BEANS)
    visit.add_to_cart(BEANS)
    visit.add_to_cart(BEANS)
    visit.buy()


def _by_chance(visit: Visit) -> None:
    rng = visit.rng
    visit.open(rng.choice(("home", "summer-sale", "newsletter")))
    for product in rng.choices(PRODUCTS, k=rng.randint(1, 4)):
        if rng.random() < 0.4:
            visit.search(product.category)
        visit.look_at(product)
        if rng.random() < 0.25:
            visit.click(rng.choice(("compare", "photos", "wishlist")), product)
        if rng.random() < 0.35:
            visit.add_to_cart(product)
    if visit.cart:
        visit.open("cart")
        if rng.random() < 0.2:
            visit.do("custom", {"name": "coupon_rejected", "coupon": "WELCOME10", "expired": False})
        if rng.random() < 0.5:
            visit.buy()
