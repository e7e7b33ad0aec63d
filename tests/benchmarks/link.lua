-- wrk: POST /v1/documents/{id}/link with new links, at random among the seeded documents and deals.
-- Prints one line of JSON at the end.
math.randomseed(tonumber(os.getenv("BENCH_SEED")))
local documents, entities = tonumber(os.getenv("BENCH_DOCUMENTS")), tonumber(os.getenv("BENCH_ENTITIES"))
local headers = {
  ["Content-Type"] = "application/json",
  ["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY"),
}

request = function()
  local path = "/v1/documents/doc_" .. math.random(documents) .. "/link"
  local body = '{"entity_type":"deal","entity_id":"deal_' .. math.random(entities) .. '","role":"signed"}'
  return wrk.format("POST", path, headers, body)
end

done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"failed":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
