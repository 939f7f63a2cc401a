"""Events of shoppers in an outdoor store: three with a story of their own, and any number of generated ones.

The events have the usual names of shops, those of Segment's e-commerce specification.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from common.events import format_timestamp
from loadtest.client import Event

Properties = dict[str, Any]


@dataclass(frozen=True)
class Product:
    sku: str
    name: str
    category: str
    cents: int

    @property
    def properties(self) -> Properties:
        return {"product_id": self.sku, "name": self.name, "category": self.category, "price": self.cents / 100}


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
    """One customer's session. Each method is an action, after a pause, and records its event.

    With `anonymous_id`, the customer is anonymous until they sign in.
    """

    customer_id: str
    device: Device
    session_id: str
    rng: random.Random
    anonymous_id: str | None = None
    cart: Counter[Product] = field(default_factory=Counter)
    seconds: float = 0.0
    signed_in: bool = False
    steps: list[tuple[float, Event]] = field(default_factory=list)

    def do(self, event_type: str, event_name: str | None = None, **fields: Properties) -> None:
        if self.steps:
            self.seconds += self.rng.uniform(4, 75)
        name = {"event_name": event_name} if event_name else {}
        self.steps.append((self.seconds, {**self._who(), "event_type": event_type, **name, **fields}))

    def open(self, page: str, event_name: str | None = None) -> None:
        self.do("page_view", event_name, properties={"page": page})

    def look_at(self, product: Product) -> None:
        self.do("page_view", "Product Viewed", properties={"page": "product", **product.properties})

    def search(self, query: str) -> None:
        self.do("search", "Products Searched", properties={"query": query, "results": self.rng.randint(2, 40)})

    def click(self, element: str, product: Product) -> None:
        self.do("click", "Product Clicked", properties={"element": element, **product.properties})

    def add_to_cart(self, product: Product) -> None:
        self.cart[product] += 1
        self.do("add_to_cart", "Product Added", properties={**product.properties, "quantity": 1})

    def look_at_cart(self) -> None:
        self.open("cart", "Cart Viewed")

    def try_coupon(self, coupon: str, reason: str) -> None:
        self.do("custom", "Coupon Denied", properties={"coupon_id": coupon, "reason": reason})

    def sign_in(self, orders: int) -> None:
        """Identify the anonymous visitor; later events are the customer's."""
        self.signed_in = True
        self.do("identify", traits={"orders": orders, "newsletter": self.rng.random() < 0.5})

    def check_out(self) -> None:
        self.open("checkout", "Checkout Started")

    def buy(self) -> None:
        order: Properties = {
            "order_id": f"order-{self.session_id}",
            "total": sum(product.cents * quantity for product, quantity in self.cart.items()) / 100,
            "currency": "EUR",
            "products": [{**product.properties, "quantity": quantity} for product, quantity in self.cart.items()],
        }
        self.do("purchase", "Order Completed", properties=order)

    def events(self, end: datetime) -> list[Event]:
        """The events so far; the last one has the time `end` (UTC)."""
        context = {
            "device": self.device.kind,
            "session_id": self.session_id,
            "ip": f"203.0.113.{self.rng.randint(1, 254)}",  # a network reserved for documentation
            "user_agent": self.device.user_agent,
        }
        return [
            {
                "event_id": f"{self.session_id}-{number:02}",
                "timestamp": format_timestamp(end - timedelta(seconds=self.seconds - seconds)),
                **event,
                "context": context,
            }
            for number, (seconds, event) in enumerate(self.steps, start=1)
        ]

    def _who(self) -> Event:
        """The ids of an event, as in SDKs: a visitor has the customer's id only after the sign-in."""
        if self.anonymous_id is None:
            return {"customer_id": self.customer_id}
        if not self.signed_in:
            return {"customer_id": self.anonymous_id, "anonymous_id": self.anonymous_id}
        return {"customer_id": self.customer_id, "user_id": self.customer_id, "anonymous_id": self.anonymous_id}


def named_journeys(run: str, now: datetime, rng: random.Random) -> Iterator[list[Event]]:
    """Alice, Ben and Chloe: 20 events in all, a list for each, ending at `now`. `run` begins every generated id."""
    for customer, device, journey in (("alice", DESKTOP, _alice), ("ben", TABLET, _ben), ("chloe", MOBILE, _chloe)):
        visit = Visit(customer, device, f"{run}-{customer}", rng)
        journey(visit)
        yield visit.events(now)


def generated_journeys(count: int, run: str, now: datetime, rng: random.Random) -> Iterator[list[Event]]:
    """N random shoppers: a list of events for each, ending within the ten minutes before `now`."""
    for number in range(1, count + 1):
        end = now - timedelta(seconds=rng.uniform(0, 600))
        yield generated_journey(f"customer-{number:05}", run, end, rng)


def generated_journey(customer: str, run: str, end: datetime, rng: random.Random) -> list[Event]:
    """The events of a random shopper; the last one has the time `end` (UTC)."""
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
    visit.check_out()
    visit.buy()


def _ben(visit: Visit) -> None:
    """Falls for a tent, and leaves it in the cart when his coupon fails."""
    visit.open("summer-sale")
    visit.look_at(TENT)
    visit.click("photos", TENT)
    visit.add_to_cart(TENT)
    visit.look_at_cart()
    visit.try_coupon("SUMMER25", "expired")


def _chloe(visit: Visit) -> None:
    """Anonymous until she signs in; then she orders her usual coffee again, on the phone."""
    visit.anonymous_id = f"anonymous-{visit.session_id}"
    visit.look_at(BEANS)
    visit.sign_in(orders=7)
    visit.add_to_cart(BEANS)
    visit.add_to_cart(BEANS)
    visit.buy()


def _by_chance(visit: Visit) -> None:
    rng = visit.rng
    if rng.random() < 0.3:
        visit.anonymous_id = f"anonymous-{visit.session_id}"
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
        _at_the_cart(visit)


def _at_the_cart(visit: Visit) -> None:
    visit.look_at_cart()
    if visit.rng.random() < 0.2:
        visit.try_coupon("WELCOME10", "used before")
    if visit.rng.random() < 0.4:
        return
    if visit.anonymous_id:
        visit.sign_in(orders=visit.rng.randint(0, 9))
    visit.check_out()
    if visit.rng.random() < 0.8:
        visit.buy()
