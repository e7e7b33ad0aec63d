-- wrk: the call that BENCH_CALL names, at random among the seeded documents and deals.
-- Prints one line of JSON at the end.
local function env(name) return os.getenv("BENCH_" .. name) end
local documents, entities = tonumber(env("DOCUMENTS")), tonumber(env("ENTITIES"))
local headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. env("KEY") }
math.randomseed(tonumber(env("SEED")))

local function post(path, body) return wrk.format("POST", path, headers, body) end
local function document() return "doc_" .. math.random(documents) end
local function deal() return "deal_" .. math.random(entities) end

local calls = {}

function calls.link()
  return post("/v1/documents/" .. document() .. "/link",
    '{"entity_type":"deal","entity_id":"' .. deal() .. '","role":"signed"}')
end

function calls.batch()
  local operations = {}
  for n = 1, tonumber(env("OPERATIONS")) do
    operations[n] = '{"op":"link","document_id":"' .. document()
      .. '","entity_type":"deal","entity_id":"' .. deal() .. '","role":"signed"}'
  end
  return post("/v1/links/batch", '{"operations":[' .. table.concat(operations, ",") .. "]}")
end

function calls.list()
  return wrk.format("GET", "/v1/documents/full_" .. math.random(tonumber(env("FULL"))) .. "/links", headers)
end

function calls.tuple() -- OpenFGA: the deal signed the document
  return post("/stores/" .. env("STORE") .. "/write",
    '{"writes":{"tuple_keys":[{"user":"deal:' .. deal() .. '","relation":"signed","object":"document:'
    .. document() .. '"}],"on_duplicate":"ignore"},"authorization_model_id":"' .. env("MODEL") .. '"}')
end

request = calls[env("CALL")]

done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"failed":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
