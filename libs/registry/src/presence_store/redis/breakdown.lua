-- The counts (connections, users, rooms) in all, of every namespace and of every gateway.
local seen = { [''] = true }
local namespaces = {}
for _, key in ipairs({ CONNECTIONS, ROOMS }) do
  for _, namespace in ipairs(call('HKEYS', key)) do
    if not seen[namespace] then
      seen[namespace] = true
      namespaces[#namespaces + 1] = {
        namespace,
        tonumber(call('HGET', CONNECTIONS, namespace) or 0),
        call('ZCARD', ONLINE .. namespace),
        call('ZCARD', LISTED .. namespace),
      }
    end
  end
end
local gateways = {}
for at, gateway in ipairs(call('ZRANGE', GATEWAYS, 0, -1)) do
  gateways[at] = {
    gateway,
    call('HLEN', SOCKETS .. gateway),
    call('HLEN', USERS_AT .. gateway),
    call('HLEN', ROOMS_AT .. gateway),
  }
end
return {
  {
    tonumber(call('HGET', CONNECTIONS, '') or 0),
    call('HLEN', USERS),
    tonumber(call('HGET', ROOMS, '') or 0),
  },
  namespaces,
  gateways,
}
