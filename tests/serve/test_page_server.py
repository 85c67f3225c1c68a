#!/usr/bin/env python3
"""The page in Chromium before the real server with two ranks: what is typed is answered by the model,
Stop frees its place at once, and the ranks are seen.

    test_page_server.py LOCKSTEP MPIRUN

Exits 77 without a Chromium. test_page.py has the page's finer points.
"""
import json
import os
import sys
import tempfile
import unittest

import browser
import test_page
import test_server
from test_load import CHAT, COMPLETION, MODEL, chatty_model
from test_page import ABOUT, ANSWER, FAULT, IDLE
from test_server import SLOW, Server

PATIENCE = 120      # seconds, on a busy machine


class OnePage(unittest.TestCase):
    say, setting = test_page.TestPage.say, test_page.TestPage.setting

    @classmethod
    def setUpClass(cls):
        cls.b = cls.enterClassContext(browser.Browser())

    def open(self, model, *words):
        self.server = Server("--model", model, *words, *SLOW)
        self.b.events.clear()
        self.b.look(1280, 800)
        self.b.open(f"http://127.0.0.1:{self.server.port}/")
        self.b.wait("document.getElementById('state').textContent === 'ready'", PATIENCE)

    def close(self):
        """Nothing went wrong on either side."""
        self.assertEqual([e for e in self.b.events if e.get("entry", {}).get("source") != "network"], [])
        self.b.open("about:blank")
        code, said = self.server.stop()
        self.assertEqual(code, 0, said)

    def answered(self, path, **body):
        status, reply = self.server.ask("POST", path, {"temperature": 0, "max_tokens": 24, **body})
        self.assertEqual(status, 200, reply)
        choice = reply["choices"][0]
        return choice["message"]["content"] if path == CHAT else choice["text"]

    def send(self, text):
        self.say(text, "true")
        self.b.wait(IDLE, PATIENCE)

    def test_a_chat(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        chatty_model(folder)
        self.open(folder)
        self.setting(temperature="0", max_tokens="24")
        messages = []
        for text in ("Who made the heavens?", "And the sea? “Selah”"):
            self.send(text)
            messages.append({"role": "user", "content": text})
            answer = self.answered(CHAT, messages=messages)
            self.assertEqual(self.b.js(ANSWER), answer)
            messages.append({"role": "assistant", "content": answer})
        self.assertIn("24 tokens", self.b.js(ABOUT))
        self.stop_a_long_one()
        self.see_the_ranks(os.path.basename(folder))
        self.close()

    def stop_a_long_one(self):
        cancelled = self.server.metric("request_cancelled_total")
        self.setting(max_tokens="800")
        self.say("Tell it all", f"({ANSWER} ?? '').length > 20")
        self.assertFalse(self.b.js(IDLE))
        self.assertEqual(self.server.metric("num_requests_running"), 1)
        self.b.wait("document.getElementById('figures').innerText.match(/running\\s*1/i)", PATIENCE)
        self.b.js("document.getElementById('stop').click()")
        self.b.wait(IDLE, PATIENCE)
        self.assertIn("stopped", self.b.js(ABOUT))
        self.server.wait_for("num_requests_running", 0, PATIENCE)
        self.server.wait_for("request_cancelled_total", cancelled + 1, PATIENCE)
        self.assertEqual(self.server.metric("kv_cache_usage_perc"), 0)

    def see_the_ranks(self, model):
        view = self.server.ask("GET", "/ranks")[1]
        self.b.wait("document.querySelectorAll('#rank-times tbody').length === 2", PATIENCE)
        self.b.wait("document.getElementById('figures').innerText.match(/running\\s*0/i)", PATIENCE)
        self.assertIn(model, self.b.js("document.getElementById('model').textContent"))
        seen = self.b.js("document.getElementById('ranks').innerText")
        for rank in view["ranks"]:
            self.assertIn(rank["host"], seen)
        self.assertIn(f"of {view['kv_blocks_total']} blocks", seen)
        with tempfile.TemporaryDirectory() as folder:
            self.b.screenshot(os.path.join(folder, "page.png"))
            self.assertGreater(os.path.getsize(os.path.join(folder, "page.png")), 10000)

    def test_a_model_without_a_template(self):
        self.open(MODEL)
        self.setting(temperature="0", max_tokens="24")
        text = "In the beginning"
        self.send(text)
        self.assertIn("no chat template", self.b.js(FAULT))
        self.b.js("document.querySelector('.fault button').click()")
        want = self.answered(COMPLETION, prompt=text)
        self.b.wait(f"{IDLE} && {ANSWER} === {json.dumps(want)}", PATIENCE)
        self.close()


if __name__ == "__main__":
    if not browser.find():
        print("there is no Chromium")
        sys.exit(77)
    test_server.LOCKSTEP, test_server.MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1], verbosity=2)
