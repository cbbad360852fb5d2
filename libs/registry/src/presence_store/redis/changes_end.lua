-- The place of the newest change. A list without any gets an entry that says nothing, so that there is a place
-- which the list of another life of the store does not have.
local newest = call('XREVRANGE', CHANGES, '+', '-', 'COUNT', 1)[1]
if newest then
  return newest[1]
end
return call('XADD', CHANGES, '*', 'begin', '')
