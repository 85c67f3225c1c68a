#!/usr/bin/env python3
"""The page at "/", in Chromium: what is typed is sent, what is streamed is read, and the ranks are
seen. The server is page_mock.py. Exits 77 without a Chromium.
"""
import json
import sys
import time
import unittest

import browser
from page_mock import STORIES, Mock

# What the last answer and the last complaint say.
ANSWER = "[...document.querySelectorAll('.theirs')].pop()?.querySelector(':scope > .text').textContent"
FAULT = "[...document.querySelectorAll('.fault')].pop()?.textContent"
ABOUT = "[...document.querySelectorAll('.about')].pop()?.textContent"
IDLE = "!document.getElementById('send').hidden"


class TestPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = cls.enterClassContext(browser.Browser())

    def setUp(self):
        self.mock = self.enterContext(Mock())
        self.b = self.browser
        self.b.events.clear()
        self.b.look(1280, 800)
        self.b.open(self.mock.url)
        self.b.js("localStorage.clear(); sessionStorage.clear()")
        self.b.open(self.mock.url)
        self.b.wait("document.getElementById('state').textContent === 'ready'")

    def tearDown(self):
        # Nothing was thrown, nothing refused by the policy; a refused request is logged, too.
        faults = [e for e in self.b.events if e.get("entry", {}).get("source") != "network"]
        self.assertEqual(faults, [])

    def say(self, text, until=IDLE):
        self.b.js("document.getElementById('prompt').focus()")
        self.b.type(text)
        answers = self.b.js("document.querySelectorAll('.theirs').length")
        self.b.press("Enter")
        self.b.wait(f"document.querySelectorAll('.theirs').length > {answers}")
        self.b.wait(until)

    def setting(self, **values):
        self.b.js("document.getElementById('open-settings').click()")
        for name, value in values.items():
            self.b.js(f"document.forms[1].elements[{json.dumps(name)}].value = {json.dumps(value)}")
        self.b.js("document.forms[1].requestSubmit()")
        self.b.wait("!document.getElementById('settings').open")

    def test_a_chat(self):
        self.say("plain")
        self.assertEqual(self.b.js(ANSWER), STORIES["plain"])
        self.assertIn("9 tokens", self.b.js(ABOUT))
        self.assertIn("prompt 12", self.b.js(ABOUT))
        self.assertEqual(self.b.js("document.getElementById('announcement').textContent"), STORIES["plain"])
        self.assertEqual(self.b.js("document.activeElement.id"), "prompt")
        self.say("plain")
        path, body, _ = self.mock.requests[1]
        self.assertEqual(path, "/v1/chat/completions")
        self.assertEqual(body, {
            "model": "Qwen3-0.6B", "stream": True, "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": "plain"},
                         {"role": "assistant", "content": STORIES["plain"]},
                         {"role": "user", "content": "plain"}]})

    def test_text_is_never_html(self):
        self.mock.change_view = lambda view: {**view, "model": STORIES["html"], "ranks": [
            {"rank": 0, "host": STORIES["html"], "device": STORIES["html"]}],
            "errors": [{"time": 1, "text": STORIES["html"]}]}
        self.say("html")
        self.b.wait("document.getElementById('model').textContent.includes('<img')")
        self.assertEqual(self.b.js(ANSWER), STORIES["html"])
        self.assertEqual(self.b.js("document.querySelectorAll('img, script').length"), 1)
        self.assertEqual(self.b.js("document.title"), "lockstep")

    def test_keys(self):
        self.b.js("document.getElementById('prompt').focus()")
        self.b.press("Enter")
        self.b.type("one")
        self.b.press("Enter", shift=True)
        self.b.type("two")
        self.assertEqual(self.mock.requests, [])
        self.assertEqual(self.b.js("document.getElementById('prompt').value"), "one\ntwo")
        self.b.press("Enter")
        self.b.wait(f"{ABOUT} && {IDLE}")
        self.assertEqual(self.mock.requests[0][1]["messages"][0]["content"], "one\ntwo")
        self.say("endless", f"{ANSWER}.endsWith('and and and ')")
        self.b.press("Escape")
        self.b.wait(IDLE)
        self.assertIn("stopped", self.b.js(ABOUT))
        self.assertTrue(self.mock.hung_up.wait(5))
        self.say("plain")           # what was there when it was stopped is part of the chat
        roles = [m["role"] for m in self.mock.requests[-1][1]["messages"]]
        self.assertEqual(roles, ["user", "assistant"] * 2 + ["user"])

    def test_stop_and_a_new_chat(self):
        self.say("endless", f"{ANSWER}.includes('and and')")
        self.b.js("document.getElementById('new-chat').click()")
        self.assertTrue(self.mock.hung_up.wait(5))
        self.assertEqual(self.b.js("document.querySelectorAll('.turn').length"), 0)
        self.say("plain")
        self.assertEqual(len(self.mock.requests[-1][1]["messages"]), 1)

    def test_thoughts_are_folded(self):
        self.say("think")
        self.assertEqual(self.b.js(ANSWER), STORIES["plain"])
        self.assertFalse(self.b.js("document.querySelector('.theirs details').open"))
        self.assertIn("Two and two is four.", self.b.js("document.querySelector('.theirs details').textContent"))
        self.assertIn("Thought for", self.b.js("document.querySelector('.theirs summary').textContent"))
        self.say("plain")
        self.assertEqual(self.mock.requests[-1][1]["messages"][1]["content"], STORIES["plain"])

    def test_settings(self):
        self.setting(temperature="0.7", top_p="0.9", max_tokens="50", thinking="off", system="Be brief.", key="secret")
        self.mock.key = "secret"
        self.say("plain")
        _, body, headers = self.mock.requests[-1]
        self.assertEqual((body["temperature"], body["top_p"], body["max_tokens"]), (0.7, 0.9, 50))
        self.assertEqual(body["messages"][0], {"role": "system", "content": "Be brief."})
        self.assertEqual(body["chat_template_kwargs"], {"enable_thinking": False})
        self.assertEqual(headers["Authorization"], "Bearer secret")
        self.assertNotIn("secret", self.b.js("JSON.stringify(localStorage)"))
        self.assertIn("secret", self.b.js("JSON.stringify(sessionStorage)"))
        self.b.open(self.mock.url)  # both outlive a reload
        self.say("plain")
        self.assertEqual(self.mock.requests[-1][1]["temperature"], 0.7)
        self.setting(thinking="on")
        self.say("plain")
        self.assertEqual(self.mock.requests[-1][1]["chat_template_kwargs"], {"enable_thinking": True})

    def test_refusals_in_words(self):
        self.say("busy")
        self.assertIn("busy", self.b.js(FAULT))
        self.assertIn("Try again in 3 s", self.b.js(FAULT))
        self.say("last orders")
        self.assertIn("shutting down", self.b.js(FAULT))
        self.assertNotIn("in 1 s", self.b.js(FAULT))
        self.say("wrong")
        self.assertIn("must be between 0 and 2 (temperature)", self.b.js(FAULT))
        self.say("plain")           # what was refused is not sent again
        self.assertEqual(len(self.mock.requests[-1][1]["messages"]), 1)
        self.mock.key = "secret"
        self.say("plain")
        self.assertIn("API key", self.b.js(FAULT))
        self.b.wait("document.getElementById('trouble').textContent.includes('API key')")

    def test_answers_that_break_off(self):
        for prompt, words in (("break", "rank 1 was lost"), ("cut", "ended before the answer did")):
            with self.subTest(prompt=prompt):
                self.say(prompt)
                self.assertIn(words, self.b.js(FAULT))
                self.assertTrue(STORIES["plain"].startswith(self.b.js(ANSWER)))
        asked = len(self.mock.requests)
        self.b.js("[...document.querySelectorAll('.fault button')].pop().click()")
        self.b.wait(f"{IDLE} && {FAULT}")
        self.assertEqual(len(self.mock.requests), asked + 1)
        self.assertEqual(self.mock.requests[-1][1], self.mock.requests[-2][1])

    def test_a_model_without_a_template(self):
        self.mock.has_template = False
        self.say("plain")
        self.assertIn("no chat template", self.b.js(FAULT))
        self.b.js("document.querySelector('.fault button').click()")
        self.b.wait(f"{IDLE} && {ANSWER} === {json.dumps(STORIES['plain'])}")
        path, body, _ = self.mock.requests[-1]
        self.assertEqual((path, body["prompt"]), ("/v1/completions", "plain"))
        self.assertNotIn("messages", body)

    def numbers(self, rank):
        text = (f"[...document.querySelectorAll('#rank-times tbody')][{rank}]"
                ".querySelectorAll('tr:first-child td:not(.time)')")
        return self.b.js(f"[...{text}].map((td) => td.textContent)")

    def test_ranks(self):
        self.mock.slow_rank = 1
        self.b.wait("[...document.querySelectorAll('.slow')].some((e) => e.textContent.startsWith('computes 2.'))")
        for rank, expected in ((0, (30, 58, 7)), (1, (80, 8, 7))):
            for number, near in zip(self.numbers(rank), expected):
                self.assertEqual(int(number), near)
        self.assertIn("KV cache: 27 of 64 blocks, 42 %", self.b.js("document.getElementById('ranks').innerText"))
        self.assertIn("no answer in 60 s", self.b.js("document.getElementById('errors').innerText"))
        self.assertIn("1.4\u00a0GB\u00a0held", self.b.js("document.getElementById('ranks').innerText"))
        self.assertIn("ping\u00a01.7\u00a0µs", self.b.js("document.getElementById('ranks').innerText"))
        self.assertLess(self.mock.polls, 20)
        # GPUs do not tell what they wait.
        self.mock.change_view = lambda view: {**view, "device": "cuda", "ranks": [
            {**r, "wait_share": None, "transfer_share": None} for r in view["ranks"]]}
        self.b.wait("document.getElementById('model').textContent.includes('cuda')")
        self.assertEqual(self.numbers(0), ["30", "–", "–"])
        # A server without a model has less to say.
        self.mock.change_view = lambda view: {"state": "unloaded", "ranks": [{"rank": 0}]}
        self.b.wait("document.getElementById('state').textContent === 'unloaded'")
        self.assertEqual(self.b.js("document.getElementById('model').textContent"), "")
        self.assertEqual(self.numbers(0), ["–", "–", "–"])
        self.assertEqual(self.b.js("document.querySelectorAll('#rank-times tbody').length"), 1)
        self.assertTrue(self.b.js("document.getElementById('errors').hidden"))
        self.mock.change_view = lambda view: {}
        time.sleep(1.2)
        self.assertTrue(self.b.js("document.getElementById('rank-times').hidden"))

    def test_states(self):
        """A server that is not ready says why, and only what failed is in the colour of faults."""
        colours = {}
        for state, reason in (("starting", "the ranks have yet to answer"), ("checking", "the ranks are being checked"),
                              ("loading", "the model is being loaded: 42 %"), ("unloaded", "no model is loaded"),
                              ("draining", "the server is shutting down"), ("failed", "rank 1: deadline")):
            self.mock.change_view = lambda view, s=state, r=reason: {**view, "state": s, "reason": r}
            self.b.wait(f"document.getElementById('state').textContent === {json.dumps(state)}")
            self.assertEqual(self.b.js("document.getElementById('trouble').innerText"), reason)
            colours[state] = self.b.js("getComputedStyle(document.getElementById('trouble')).color")
        self.assertNotEqual(colours.pop("failed"), colours["loading"])
        self.assertEqual(len(set(colours.values())), 1)
        self.mock.change_view = lambda view: view
        self.b.wait("document.getElementById('trouble').hidden")

    def test_a_server_that_goes_away(self):
        self.mock.go()
        self.b.wait("document.getElementById('state').textContent === 'unreachable'", 20)
        self.say("plain")
        self.assertIn("cannot be reached", self.b.js(FAULT))

    def test_nothing_is_polled_while_nobody_looks(self):
        self.b.js("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        time.sleep(1.2)
        polls = self.mock.polls
        time.sleep(1.5)
        self.assertEqual(self.mock.polls, polls)
        self.b.js("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        deadline = time.monotonic() + 5
        while self.mock.polls < polls + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertGreaterEqual(self.mock.polls, polls + 2)

    def test_themes(self):
        ground = "getComputedStyle(document.body).backgroundColor"
        light = self.b.js(ground)
        self.b.look(1280, 800, dark=True)
        dark = self.b.js(ground)
        self.assertNotEqual(light, dark)
        for theme, expected in (("light", light), ("dark", dark), ("auto", dark)):
            self.b.js("document.getElementById('theme').click()")
            self.assertEqual(self.b.js("document.getElementById('theme').textContent"), f"Theme: {theme}")
            self.assertEqual(self.b.js(ground), expected)

    def test_a_phone(self):
        self.b.look(360, 740, phone=True)
        self.mock.ranks = 8
        self.b.wait("document.querySelectorAll('#rank-times tbody').length === 8")
        self.say("long")
        self.assertIn("limit of tokens", self.b.js(ABOUT))
        self.assertEqual(self.b.js("document.documentElement.scrollWidth"), 360)
        below = self.b.js("document.getElementById('ranks').getBoundingClientRect().top - "
                          "document.getElementById('chat').getBoundingClientRect().bottom")
        self.assertGreaterEqual(below, 0)
        self.assertLess(self.b.js("const l = document.getElementById('log'); "
                                  "l.scrollHeight - l.scrollTop - l.clientHeight"), 2)


if __name__ == "__main__":
    if not browser.find():
        print("there is no Chromium")
        sys.exit(77)
    unittest.main(verbosity=2)
